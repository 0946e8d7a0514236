"""Our LLMs as classes of other frameworks. Each module needs the extra of its own name."""
