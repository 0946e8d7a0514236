"""Rows to what is asked of them: Jinja2 templates, or a column of the row that holds it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

import msgspec

from mistill.datasets.sources import Row
from mistill.datasets.sources.json_problems import name_of_json
from mistill.errors import InputError, nearest_name

if TYPE_CHECKING:
    from jinja2 import Template
    from jinja2.sandbox import SandboxedEnvironment

Messages = list[dict[str, Any]]

# Jinja's other globals (dict, lipsum …) would stand in, unseen, for a missing column of that name.
_KEPT_GLOBALS = ("namespace", "range")
_MAX_COLUMNS_SHOWN = 20


class PromptDescription(TypedDict):
    """What the messages of a row depend on besides the row."""

    prompt: str | None
    system: str | None
    messages_column: str | None
    prompt_column: str | None


class TextDescription(TypedDict):
    """What the text of a row depends on besides the row."""

    prompt: str | None
    text_column: str | None


class PromptTemplate:
    """Rows to chat messages.

    ``prompt`` and ``system`` are Jinja2 templates over the row's columns, sandboxed. ``row`` is the whole
    record, for columns whose name is no identifier: ``{{ row["unit price"] }}``. Without ``prompt`` the
    row's ``messages_column`` (a list of messages, or its JSON) is sent, or else its ``prompt_column`` (a
    string) as a user message; null counts as not there.

    Raises ``InputError`` for a template that does not compile.
    """

    def __init__(
        self,
        *,
        prompt: str | None = None,
        system: str | None = None,
        messages_column: str = "messages",
        prompt_column: str = "prompt",
    ) -> None:
        self._prompt = None if prompt is None else _RowTemplate(prompt, "prompt")
        self._system = None if system is None else _RowTemplate(system, "system")
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

    def render(self, row: Row) -> Messages:
        """The messages for ``row``. ``InputError``, naming the row, where it gives none or a blank one."""
        record = row.record
        if self._prompt is not None:
            return self._with_system([{"role": "user", "content": self._prompt.render(row)}], row)
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
            raise _refusal(
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
        self._template = None if template is None else _RowTemplate(template, "prompt")
        self._text_column = text_column

    def describe(self) -> TextDescription:
        """What a row's text depends on besides the row, as JSON."""
        return {
            "prompt": self._template.source if self._template else None,
            "text_column": None if self._template else self._text_column,
        }

    def render(self, row: Row) -> str:
        """The text of ``row``. ``InputError``, naming the row, where it gives none or a blank one."""
        if self._template is not None:
            return self._template.render(row)
        text = row.record.get(self._text_column)
        if text is None:
            raise _nothing_in(row, (self._text_column,))
        return _text_of(row, self._text_column, text)


class _RowTemplate:
    """One compiled template. ``role`` is what the user calls it: prompt, system."""

    def __init__(self, source: str, role: str) -> None:
        self.source = source
        self._role = role
        if not source.strip():
            raise InputError(f"the {role} template is blank")
        try:
            source.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"the {role} template is not UTF-8 text: {error.reason}") from error
        environment = _environment()
        known: dict[str, Any] = environment.globals
        kept = {name: known[name] for name in _KEPT_GLOBALS}
        known.clear()
        self._template, self._names = _compile(environment, source, role)
        self._globals = {name: value for name, value in kept.items() if name in self._names}
        self._template.globals = {}  # they come with the row's values; jinja would go through them for each row

    def render(self, row: Row) -> str:
        # Imported by then: `_compile` did it.
        from jinja2 import UndefinedError

        values = row.record
        if self._globals or "row" in self._names:
            values = {**self._globals, "row": values, **values}
        try:
            # A shared context takes the row as it is; `Template.render` copies it, at twice the time.
            context = self._template.new_context(values, shared=True)
            text = "".join(self._template.root_render_func(context))
        except UndefinedError as error:
            raise self._undefined(row, error) from error
        except _NullOutput as error:
            raise self._null(row) from error
        except Exception as error:  # whatever a filter or an expression does with this row's values
            problem = f"the {self._role} template failed: {type(error).__name__}: {error}"
            raise _refusal(row, problem) from error
        if not text.strip():
            raise _refusal(row, f"the {self._role} template gives a blank text")
        return text

    def _undefined(self, row: Row, error: Exception) -> InputError:
        found = re.fullmatch(r"'(.+)' is undefined", str(error))
        if found is None or found[1] in row.record:
            return _refusal(row, f"the {self._role} template: {error}")
        missing = found[1]
        near = nearest_name(missing, row.record)
        problem = f"the {self._role} template needs a column {missing!r}; it has {_list_columns(row.record)}"
        return _refusal(row, problem, hint=None if near is None else f"did you mean {near!r}?")

    def _null(self, row: Row) -> InputError:
        nulls = [name for name in self._names if name in row.record and row.record[name] is None]
        what = f"the column {nulls[0]!r}" if nulls else "a value of the template"
        name = nulls[0] if nulls else "value"
        return _refusal(
            row,
            f"{what} is null, and the {self._role} would read 'None'",
            hint=f"say what stands for it: {{{{ {name} or 'unknown' }}}}",
        )


class _NullOutput(Exception):
    """A signal from inside a template to its ``render``; never seen outside."""


def _refuse_null(value: object) -> object:
    if value is None:
        raise _NullOutput
    return value


def _compile(environment: SandboxedEnvironment, source: str, role: str) -> tuple[Template, list[str]]:
    """The template, and the names that it does not set itself, sorted."""
    from jinja2 import TemplateError, TemplateSyntaxError, meta

    try:
        names = sorted(meta.find_undeclared_variables(environment.parse(source)))
        return environment.from_string(source), names
    except TemplateSyntaxError as error:
        line = source.splitlines()[error.lineno - 1 : error.lineno]
        shown = f": {line[0].strip()[:80]}" if line else ""
        raise InputError(
            f"the {role} template, line {error.lineno}: {error.message}{shown}",
            hint="https://jinja.palletsprojects.com/templates",
        ) from error
    except TemplateError as error:
        raise InputError(f"the {role} template: {error.message}") from error


def _environment() -> SandboxedEnvironment:
    # Here, since importing jinja2 costs 30 ms and many uses of this package have no template.
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # prompts are text, not HTML
        finalize=_refuse_null,
    )
    filters: dict[str, Any] = environment.filters
    filters["tojson"] = _to_json
    return environment


def _to_json(value: object, indent: int | None = None) -> str:
    """Jinja's own filter is for HTML: it writes < as \\u003c and sorts the keys."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


# --- messages of the row ------------------------------------------------------------------------------------


def _read_messages(value: object, row: Row, column: str) -> Messages:
    if isinstance(value, str):  # from CSV, where all is text
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError as error:
            problem = f"the column {column!r} is text, but not the JSON of messages: {error}"
            raise _refusal(row, problem) from error
    if not isinstance(value, list):
        raise _refusal(row, f"the column {column!r} is not a list of messages but {name_of_json(value)}")
    if not value:
        raise _refusal(row, f"the column {column!r} is an empty list of messages")
    messages: Messages = []
    for number, message in enumerate(cast("list[object]", value)):
        fields = cast("dict[str, Any]", message) if isinstance(message, dict) else {}
        if not isinstance(fields.get("role"), str):
            raise _refusal(row, f"message {number} of the column {column!r} is no object with a role")
        messages.append(_without_nulls(fields))
    return messages


def _without_nulls(message: dict[str, Any]) -> dict[str, Any]:
    """Columnar files give every message of the column the keys that any has, null where it had none.

    ``content`` may be null in its own right, and what is in a tool call's ``arguments`` is the caller's.
    """
    return {
        key: value if key == "arguments" else _in_lists(value)
        for key, value in message.items()
        if value is not None or key == "content"
    }


def _in_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return _without_nulls(cast("dict[str, Any]", value))
    if isinstance(value, list):
        return [_in_lists(item) for item in cast("list[Any]", value)]
    return value


def _text_of(row: Row, column: str, text: object) -> str:
    if not isinstance(text, str):
        raise _refusal(row, f"the column {column!r} is not a string but {name_of_json(text)}")
    if not text.strip():
        raise _refusal(row, f"the column {column!r} is blank")
    return text


# --- words for errors ---------------------------------------------------------------------------------------


def _nothing_in(row: Row, wanted: tuple[str, ...]) -> InputError:
    nulls = [column for column in wanted if column in row.record]
    if nulls:
        return _refusal(row, f"the column {nulls[0]!r} is null")
    column = next(iter(row.record), "text")
    taken = column if column.isidentifier() else f'row["{column}"]'
    named = " or ".join(repr(name) for name in wanted)
    return _refusal(
        row,
        f"no column {named}; it has {_list_columns(row.record)}",
        hint=f"give a prompt template, for example '{{{{ {taken} }}}}'",
    )


def _refusal(row: Row, problem: str, hint: str | None = None) -> InputError:
    return InputError(f"{row.where}: {problem}", hint=hint, index=row.index)


def _list_columns(record: Mapping[str, object]) -> str:
    if not record:
        return "no columns"
    shown = ", ".join(repr(name) for name in list(record)[:_MAX_COLUMNS_SHOWN])
    more = len(record) - _MAX_COLUMNS_SHOWN
    return shown + (f" and {more} more" if more > 0 else "")
