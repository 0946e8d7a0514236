"""``mistill chat``: one prompt, answered as it is written."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import msgspec

from mistill.api.chat import AnsweredToolCall
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.model_options import (
    attributes_of,
    connection_options,
    generation_options,
    make_llm,
    model_name_option,
    pace_options,
    refuse_beside_local,
    served,
    structured_options,
    trace_content_option,
)
from mistill.cli.options.settings_file import settings_option
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.output import is_terminal, say
from mistill.errors import InputError
from mistill.finish_reasons import CUT_BY, CUT_OFF, GIVE_ROOM
from mistill.llms import MistralLLM
from mistill.llms.event_loop import background
from mistill.visible import visible, visible_json
from mistill.wording import worded

_MODEL = "mistral-small-latest"

Pieces = Iterator[tuple[str, str, tuple[AnsweredToolCall, ...], str | None]]


@cli_command(
    "chat",
    examples="""
mistill chat "Why is the sky blue?"
mistill chat --local "Name a colour" --max-new-tokens 20
git diff | mistill chat - --system "Write a commit message for this change."
""",
    asks_one_row=True,
)
@click.argument("prompt")
@option("--system", group="Prompt", metavar="TEXT", help="System message.")
@option("--thinking", group="Prompt", is_flag=True, help="Show on stderr what a reasoning model thinks.")
@model_name_option
@connection_options
@structured_options
@generation_options
@trace_content_option
@pace_options
@settings_option
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Answers PROMPT (- reads it from stdin) on stdout, as the answer is written. The model is mistral-small-latest
    unless another is named.

    With --schema the answer comes in one piece, since it is checked first.
    """
    refuse_beside_local(ctx, given)
    with served(attributes_of(ctx, given), local=given["local"], say=say) as attributes:
        llm = make_llm(ctx, {"model": _MODEL, **attributes}, given)
        messages = _messages(given["prompt"], given["system"])
        pieces = _streamed(llm, messages) if llm.structured_output is None else _whole(llm, messages)
        _show(pieces, with_thinking=given["thinking"])
    return Exit.ANSWERED


def _messages(prompt: str, system: str | None) -> list[dict[str, Any]]:
    text = sys.stdin.read() if prompt == "-" else prompt
    if not text.strip():
        raise InputError("the prompt is blank")
    first = [] if system is None else [{"role": "system", "content": system}]
    return [*first, {"role": "user", "content": text}]


def _streamed(llm: MistralLLM, messages: list[dict[str, Any]]) -> Pieces:
    for chunk in llm.stream(messages):
        yield chunk.text, chunk.thinking, chunk.tool_calls, chunk.finish_reason


def _whole(llm: MistralLLM, messages: list[dict[str, Any]]) -> Pieces:
    # Not `complete`, which raises a group of errors: here is one row, whose own error says all.
    for completion in background.run(llm.acomplete(messages)):
        yield (
            completion.text or "",
            completion.thinking or "",
            completion.tool_calls,
            completion.finish_reason,
        )


def _show(pieces: Pieces, *, with_thinking: bool) -> None:
    last = ""
    readable = visible if is_terminal() else str
    for text, thinking, calls, finish_reason in pieces:
        if thinking and with_thinking:
            click.secho(visible(thinking), dim=True, nl=False, err=True)
        if text:
            # With colours, or click would cut out of a piped answer what looks like one.
            click.echo(readable(text), nl=False, color=True)
            last = text
        for call in calls:
            click.echo(visible_json(msgspec.json.encode(call).decode()))
        if finish_reason in CUT_OFF:
            room = worded(GIVE_ROOM[finish_reason], on_the_command_line)
            click.echo(f"\n(cut off by {CUT_BY[finish_reason]}: {room})", err=True)
    if last and not last.endswith("\n"):
        click.echo()
