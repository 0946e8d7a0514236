"""Rows to what is asked of them: Jinja2 templates, or a column of the row that holds it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict, cast

import msgspec

from mistill.datasets.sources import Row
from mistill.datasets.sources.json_problems import name_of_json
from mistill.datasets.sources.media_files import media_kind
from mistill.errors import InputError
from mistill.llms.plain_values import without_nulls
from mistill.prompts.prompt_layout import ROWS_OWN, PromptLayout, layout_of
from mistill.prompts.row_errors import list_columns, row_error
from mistill.prompts.written_numbers import decode_written, encode_written, holds_written, written_record

if TYPE_CHECKING:
    from mistill.prompts.templates import RowTemplate

Messages = list[dict[str, Any]]


class PromptDescription(TypedDict):
    """What the messages of a row depend on besides the row."""

    prompt: str | None
    system: str | None
    messages_column: str | None
    prompt_column: str | None
    images: NotRequired[list[str]]
    documents: NotRequired[list[str]]
    audio: NotRequired[list[str]]


class TextDescription(TypedDict):
    """What the text of a row depends on besides the row."""

    prompt: str | None
    text_column: str | None


class PromptTemplate:
    """Rows to chat messages.

    ``prompt`` and ``system`` are Jinja2 templates over the row's columns, sandboxed. ``row`` is the whole
    record, for columns whose name is no identifier: ``{{ row["unit price"] }}``. Without ``prompt`` the
    row's ``messages_column`` (a list of messages, or its JSON) is sent, or else its ``prompt_column`` (a
    string) as a user message; null counts as not there. ``has_media``: whoever uses it can say which columns
    go along with a prompt.

    Raises ``InputError`` for a template that does not compile.
    """

    def __init__(
        self,
        *,
        prompt: str | None = None,
        system: str | None = None,
        messages_column: str = "messages",
        prompt_column: str = "prompt",
        has_media: bool = False,
    ) -> None:
        self._prompt = _compiled(prompt, "prompt", has_media=has_media)
        self._system = _compiled(system, "system", has_media=has_media)
        self._messages_column = messages_column
        self._prompt_column = prompt_column

    def describe(self) -> PromptDescription:
        """What the messages of a row depend on besides the row, as JSON: the same description, the same
        messages."""
        by_template = self._prompt is not None
        return {
            "prompt": self._prompt.source if self._prompt else None,
            "system": self._system.source if self._system else None,
            "messages_column": None if by_template else self._messages_column,
            "prompt_column": None if by_template else self._prompt_column,
        }

    def layout(self, *, tool_tokens: int = 0) -> PromptLayout:
        """What of its prompts is the same in all rows; ``tool_tokens``: of what stands before them."""
        messages = [] if self._system is None else [self._system.pieces]
        messages.append(ROWS_OWN if self._prompt is None else self._prompt.pieces)
        return layout_of(messages, tool_tokens=tool_tokens)

    @property
    def systems_differ(self) -> bool:
        """Rows may have different system messages."""
        return self._prompt is None if self._system is None else self._system.takes_columns

    def lacks(self, columns: Collection[str]) -> bool:
        """It names columns that are not among these, so that no row may give a text; or none of them holds one."""
        if self._prompt is None and {self._messages_column, self._prompt_column}.isdisjoint(columns):
            return True
        templates = (one for one in (self._prompt, self._system) if one is not None)
        return any(not one.columns <= set(columns) for one in templates)

    def written_files(self, row: Row) -> list[str]:
        """Columns that the template writes as text, and that name a file of images, documents or sound."""
        names = self._prompt.names if self._prompt is not None else ()
        return [name for name in sorted(names) if _names_media(row.record.get(name))]

    def doubts(self, row: Row) -> Iterator[str]:
        """What may be meant otherwise, in words, for whoever looks at the first rows."""
        templates = [one for one in (self._prompt, self._system) if one is not None]
        return _doubts(row, templates) if self._prompt is not None else iter(())

    def render(self, row: Row) -> Messages:
        """The messages for ``row``. ``InputError``, naming the row, where it gives none or a blank one."""
        if self._prompt is not None:
            return self._with_system([{"role": "user", "content": self._prompt.render(row)}], row)
        record = written_record(row)
        if (messages := record.get(self._messages_column)) is not None:
            return self._with_system(_read_messages(messages, row, self._messages_column), row)
        if (text := record.get(self._prompt_column)) is not None:
            text = _text_of(row, self._prompt_column, text)
            return self._with_system([{"role": "user", "content": text}], row)
        raise _nothing_in(row, (self._messages_column, self._prompt_column))

    def _with_system(self, messages: Messages, row: Row) -> Messages:
        if self._system is None:
            return messages
        if any(message["role"] == "system" for message in messages):
            raise row_error(
                row,
                f"a system prompt is given, and the column {self._messages_column!r} holds one too",
                hint="leave one of them out",
            )
        return [{"role": "system", "content": self._system.render(row)}, *messages]


class TextTemplate:
    """Rows to texts, to be embedded: ``template`` over the row's columns, as for `PromptTemplate`, or else its
    ``text_column``.

    Raises ``InputError`` for a template that does not compile.
    """

    def __init__(self, template: str | None = None, *, text_column: str = "text") -> None:
        self._template = _compiled(template, "prompt")
        self._text_column = text_column

    def describe(self) -> TextDescription:
        """What a row's text depends on besides the row, as JSON."""
        return {
            "prompt": self._template.source if self._template else None,
            "text_column": None if self._template else self._text_column,
        }

    def doubts(self, row: Row) -> Iterator[str]:
        """As those of a `PromptTemplate`."""
        return _doubts(row, [self._template]) if self._template is not None else iter(())

    def render(self, row: Row) -> str:
        """The text of ``row``. ``InputError``, naming the row, where it gives none or a blank one."""
        if self._template is not None:
            return self._template.render(row)
        text = row.record.get(self._text_column)
        if text is None:
            raise _nothing_in(row, (self._text_column,))
        if isinstance(text, int | float) and not isinstance(text, bool):
            return str(written_record(row)[self._text_column])  # from CSV it would be text already
        return _text_of(row, self._text_column, text)


def _compiled(source: str | None, role: str, *, has_media: bool = False) -> RowTemplate | None:
    if source is None:
        return None
    from mistill.prompts.templates import (
        RowTemplate,  # costs 30 ms, and many uses of this package have no template
    )

    return RowTemplate(source, role, has_media=has_media)


def _doubts(row: Row, templates: Sequence[RowTemplate]) -> Iterator[str]:
    if row.index == 0:
        for name in (name for one in templates if one.takes_columns for name in one.braced(row)):
            yield f"{{{name}}} is sent as it stands; the column goes into a prompt as {{{{ {name} }}}}"
    if row.index == 1 and not any(one.takes_columns or one.braced(row) for one in templates):
        column = _in_braces(next(iter(row.record), "text"))
        yield f"the prompt names no column, so every row is asked the same; a column goes into it as {column}"


def _in_braces(column: str) -> str:
    """How a template names a column."""
    return f"{{{{ {column} }}}}" if column.isidentifier() else f'{{{{ row["{column}"] }}}}'


# --- messages of the row ------------------------------------------------------------------------------------


def _read_messages(value: object, row: Row, column: str) -> Messages:
    if isinstance(value, str):  # from CSV, where all is text
        try:
            value = decode_written(value)
        except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
            problem = f"the column {column!r} is text, but not the JSON of messages: {error}"
            raise row_error(row, problem) from error
    if not isinstance(value, list):
        raise row_error(row, f"the column {column!r} is not a list of messages but {name_of_json(value)}")
    if not value:
        raise row_error(row, f"the column {column!r} is an empty list of messages")
    messages: Messages = []
    for number, message in enumerate(cast("list[object]", value)):
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if not isinstance(fields.get("role"), str):
            raise row_error(row, f"message {number} of the column {column!r} is no object with a role")
        messages.append(_as_sent(fields))
    return messages


def _as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """``content`` may be null in its own right, and what is in a tool call's ``arguments`` is the caller's."""
    message = without_nulls(message, keep=("content",), opaque=("arguments",))
    if holds_written(message):  # the API takes arguments as text too, which keeps the digits of their numbers
        _write_arguments(message.get("tool_calls"))
    return message


def _write_arguments(calls: Any) -> None:
    for call in cast("list[Any]", calls) if isinstance(calls, list) else []:
        function: Any = cast("dict[str, Any]", call).get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and isinstance(function.get("arguments"), dict):  # pyright: ignore[reportUnknownMemberType]  JSON
            function["arguments"] = encode_written(function["arguments"]).decode()


def _names_media(value: object) -> bool:
    return isinstance(value, str) and value.count("\n") == 0 and media_kind(value) is not None


def _text_of(row: Row, column: str, text: object) -> str:
    if not isinstance(text, str):
        raise row_error(row, f"the column {column!r} is not a string but {name_of_json(text)}")
    if not text.strip():
        raise row_error(row, f"the column {column!r} is blank")
    return text


def _nothing_in(row: Row, wanted: tuple[str, ...]) -> InputError:
    nulls = [column for column in wanted if column in row.record]
    if nulls:
        return row_error(row, f"the column {nulls[0]!r} is null")
    named_files = any(map(_names_media, row.record.values())) or row.binary
    example = "Describe what is in it." if named_files else _in_braces(next(iter(row.record), "text"))
    named = " or ".join(repr(name) for name in wanted)
    return row_error(
        row,
        f"no column {named}; it has {list_columns(row.record)}",
        hint=f"give a prompt{'' if named_files else ' template'}, for example '{example}'",
    )
