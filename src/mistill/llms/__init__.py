"""What a user instantiates: LLMs, their settings, and what they return."""

from typing import TYPE_CHECKING, Any

from mistill.errors import GenerationError
from mistill.llms import content
from mistill.llms.base import LLM, AsyncLLM
from mistill.llms.mistral import MistralLLM
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.streaming import StreamChunk
from mistill.llms.tools import read_call
from mistill.llms.types import (
    Completion,
    FormattedInput,
    GenerateOutput,
    Outcome,
    StandardInput,
    StructuredOutput,
    Usage,
)

if TYPE_CHECKING:
    from mistill.llms.embeddings import Embedded, MistralEmbeddings

__all__ = [
    "LLM",
    "AsyncLLM",
    "Completion",
    "Embedded",
    "FormattedInput",
    "GenerateOutput",
    "GenerationError",
    "MistralEmbeddings",
    "MistralLLM",
    "Outcome",
    "RuntimeParameter",
    "StandardInput",
    "StreamChunk",
    "StructuredOutput",
    "Usage",
    "content",
    "read_call",
]


_HOMES = {
    "Embedded": "mistill.llms.embeddings",
    "MistralEmbeddings": "mistill.llms.embeddings",
}


def __getattr__(name: str) -> Any:
    # Most have no use for embeddings, which cost a tenth of what importing this costs.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
