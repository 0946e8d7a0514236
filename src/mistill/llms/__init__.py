"""What a user instantiates: LLMs, their settings, and what they return."""

from mistill.llms import content
from mistill.llms.base import LLM, AsyncLLM
from mistill.llms.embeddings import Embedded, MistralEmbeddings
from mistill.llms.errors import GenerationError
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
