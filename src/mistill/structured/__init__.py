"""Answers that fit a schema: type or JSON schema → ``response_format``; text → value; repair; instructor.

Pure: no HTTP, no waiting, no state. Whoever calls sends the requests.
"""

from __future__ import annotations

from mistill.structured.references import (
    describe_schema,
    describe_structured_output,
    load_schema,
    names_module,
    restore_schema,
)
from mistill.structured.repair import Reask, answer_text, judge, read_answer
from mistill.structured.schema import OutputSchema, Parsed, compile_schema
from mistill.structured.structured_output import (
    StructuredOutput,
    StructuredOutputPlan,
    compile_structured_output,
)

__all__ = [
    "OutputSchema",
    "Parsed",
    "Reask",
    "StructuredOutput",
    "StructuredOutputPlan",
    "answer_text",
    "compile_schema",
    "compile_structured_output",
    "describe_schema",
    "describe_structured_output",
    "judge",
    "load_schema",
    "names_module",
    "read_answer",
    "restore_schema",
]
