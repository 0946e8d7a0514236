"""What a user instantiates: LLMs, their settings, and what they return."""

from mistill.llms.base import LLM, AsyncLLM
from mistill.llms.errors import GenerationError
from mistill.llms.mistral import MistralLLM
from mistill.llms.runtime_parameters import RuntimeParameter
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
    "FormattedInput",
    "GenerateOutput",
    "GenerationError",
    "MistralLLM",
    "Outcome",
    "RuntimeParameter",
    "StandardInput",
    "StructuredOutput",
    "Usage",
]
