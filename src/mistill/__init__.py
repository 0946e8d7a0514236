"""A Mistral model over a dataset: as fast as the quota allows, nothing lost, nothing paid twice."""

from typing import TYPE_CHECKING, Any

from mistill._version import __version__

if TYPE_CHECKING:
    from mistill.llms import MistralEmbeddings, MistralLLM
    from mistill.runs.run import Run

__all__ = ["MistralEmbeddings", "MistralLLM", "Run", "__version__"]

_HOMES = {"MistralEmbeddings": "mistill.llms", "MistralLLM": "mistill.llms", "Run": "mistill.runs.run"}


def __getattr__(name: str) -> Any:
    # On first use, so that `import mistill` costs next to nothing.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
