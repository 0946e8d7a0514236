"""Our LLMs inside other frameworks: a class of distilabel (its extra is needed), and a stage of any engine."""
