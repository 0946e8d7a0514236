"""Raw answers from the ledger → completions: for the output, and for what was paid before a crash. Nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mistill.api.chat import Choice, decode_response
from mistill.api.errors import InvalidOutput
from mistill.llms.generation import split_content
from mistill.llms.types import Completion
from mistill.structured.repair import read_answer
from mistill.structured.schema import OutputSchema


def completions_of(bodies: Sequence[bytes], schema: OutputSchema | None = None) -> list[Completion]:
    """The completions that raw bodies of answers hold, in order; with a schema, each with its value.

    Token counts and cost are the ledger's to tell, so they are left at nothing here.

    Raises:
        InvalidOutput: an answer does not fit ``schema``.
    """
    completions: list[Completion] = []
    for body in bodies:
        response = decode_response(body)
        for choice in response.choices:
            text, thinking = split_content(choice.message)
            completion = Completion(
                text=text,
                thinking=thinking,
                tool_calls=choice.message.tool_calls or (),
                finish_reason=choice.finish_reason,
                model=response.model,
                id=response.id,
                raw=body,
            )
            completions.append(completion if schema is None else _typed(completion, choice, schema))
    return completions


def fitting_completions(bodies: Sequence[bytes], schema: OutputSchema | None) -> list[Completion]:
    """As `completions_of`, without the answers that do not fit: those were asked again."""
    fitting: list[Completion] = []
    for body in bodies:
        try:
            fitting.extend(completions_of([body], schema))
        except InvalidOutput:
            continue
    return fitting


def _typed(completion: Completion, choice: Choice, schema: OutputSchema) -> Completion:
    text = completion.text
    if not text and choice.message.tool_calls:
        # In tool modes the answer is the arguments of a call.
        arguments = choice.message.tool_calls[0].function.arguments
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    parsed = read_answer(schema, text or "")
    return msgspec.structs.replace(completion, text=parsed.text, value=parsed.value)
