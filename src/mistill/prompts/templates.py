"""One template over rows: compiled once, rendered for each row, its errors in words about the row."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError, UndefinedError
from jinja2.exceptions import SecurityError

from mistill.datasets.sources import Row
from mistill.errors import InputError, let_interrupt_pass, nearest_name
from mistill.prompts.prompt_layout import Piece
from mistill.prompts.row_errors import list_columns, row_error
from mistill.prompts.template_environment import (
    MAX_WORK,
    SELF,
    MissingColumn,
    NoText,
    NotFinite,
    NullInText,
    RowContext,
    TooMuchWork,
    compile_template,
    pieces_of,
)
from mistill.prompts.written_numbers import WITHOUT_FRACTIONS, written_record
from mistill.wording import Setting, words

_WORK_PER_BYTE = 10
"""What a template may do to a row beyond `MAX_WORK`, since a large row is no endless template."""


_BRACED = re.compile(r"(?<!\{)\{\s*(\w+)\s*(?:[!:.\[][^{}\s]*)?\}(?!\})")
"""``{text}``, ``{text!r}``, ``{text:>9}``, as f-strings have it."""


class RowTemplate:
    """One compiled template.

    Args:
        role: what the user calls it: prompt, system.
        has_media: columns of images, documents and sound can be named, which go along with a prompt.

    Attributes:
        takes_columns: it names some, so that its text is not the same for every row.

    Raises:
        InputError: it does not compile.
    """

    def __init__(self, source: str, role: str, *, has_media: bool) -> None:
        self.source = source
        self._role = role
        self._has_media = has_media
        if not source.strip():
            raise InputError(f"the {role} template is blank")
        try:
            source.encode()
            self._template, self._names, self._globals, text = compile_template(source)
        except UnicodeEncodeError as error:
            raise InputError(f"the {role} template is not UTF-8 text: {error.reason}") from error
        except TemplateSyntaxError as error:
            line = source.splitlines()[error.lineno - 1 : error.lineno]
            shown = f": {line[0].strip()[:80]}" if line else ""
            raise InputError(
                f"the {role} template, line {error.lineno}: {error.message}{shown}",
                hint="https://jinja.palletsprojects.com/templates",
            ) from error
        except TemplateError as error:
            raise InputError(f"the {role} template: {error.message}") from error
        self.takes_columns = not self._names <= self._globals.keys()
        # Who writes of raw text knows what goes out as it stands.
        self._braced = frozenset(() if "endraw" in source else _BRACED.findall(text))
        self._takes_record_as_it_is = not (self._globals or self._names & {"row", SELF})

    def render(self, row: Row) -> str:
        """The text of a row.

        Raises:
            InputError: the template does not fit the row, whatever is wrong; names the row.
        """
        if self._braced and not self.takes_columns and (names := self.braced(row)):
            raise self._not_filled(row, names[0])
        if row.binary and not self._names.isdisjoint(row.binary):
            raise self._binary(row)
        values = row.record
        if not WITHOUT_FRACTIONS.issuperset(
            map(type, values.values())
        ):  # asked here, since most rows end here
            values = written_record(row)
        if not self._takes_record_as_it_is:
            values = self._values(values)
        try:
            # A shared context takes the row as it is; `Template.render` copies it, at twice the time.
            context = cast("RowContext", self._template.new_context(values, shared=True))
            context.work = [-_WORK_PER_BYTE * len(row.raw)]
            text = "".join(self._template.root_render_func(context))
        except BaseException as error:  # whatever a filter or an expression does with this row's values
            let_interrupt_pass(error)
            raise self._error(row, error) from error
        if not text.strip():
            raise row_error(row, f"the {self._role} template gives a blank text")
        return text

    def _values(self, record: dict[str, Any]) -> dict[str, Any]:
        values = {**self._globals, "row": record, **record}
        if "self" in record:
            values[SELF] = record["self"]
        return values

    def _error(self, row: Row, error: BaseException) -> InputError:
        role = self._role
        if isinstance(error, MissingColumn):
            return self._missing(row, error)
        if isinstance(error, UndefinedError):
            return row_error(row, f"the {role} template: {error}")
        if isinstance(error, NullInText):
            return self._null(row)
        if isinstance(error, NoText):
            return self._no_text(row, error.value)
        if isinstance(error, NotFinite):
            problem = f"the {role} template would write {error.value!r}, which is no number to read"
            return row_error(row, problem, "what it computes is beyond every float, or not defined")
        if isinstance(error, SecurityError):
            return row_error(row, f"the {role} template: it calls what templates may not use")
        if isinstance(error, TooMuchWork):
            problem = f"the {role} template goes on beyond {MAX_WORK:,} characters and steps"
            return row_error(row, problem, "a loop in it hardly ends, or a text grows without end")
        return row_error(row, f"the {role} template failed: {type(error).__name__}: {error}")

    def _no_text(self, row: Row, value: Any) -> InputError:
        column = next((name for name in sorted(self._names) if row.record.get(name) == value), None)
        what = "an image, document or sound" if isinstance(value, str) else f"a {type(value).__name__}"
        problem = f"the {self._role} template would write {what}, which is no text"
        if column is not None:
            problem = f"the column {column!r}: {problem}"
        return row_error(row, problem, self._instead_of(value, column))

    def _binary(self, row: Row) -> InputError:
        column = next(name for name in sorted(self._names) if name in row.binary)
        problem = f"the column {column!r} holds bytes, which are no text for the {self._role} template"
        return row_error(row, problem, self._instead_of("", column))

    def braced(self, row: Row) -> list[str]:
        """Columns of the row that stand in its text as an f-string has them, ``{text}``, and go out as they stand."""
        return sorted(self._braced & row.record.keys()) if self._braced else []

    def _not_filled(self, row: Row, name: str) -> InputError:
        return row_error(
            row,
            f"the {self._role} template has {{{name}}}, which is sent as it stands, and names no column",
            f"the column goes into it as {{{{ {name} }}}}; what is meant as text is written {{{{ '{{{name}}}' }}}}",
        )

    @cached_property
    def pieces(self) -> Sequence[Piece]:
        """What it is made of."""
        return list(pieces_of(self.source))

    @property
    def names(self) -> frozenset[str]:
        """The columns that it names."""
        return self._names

    @property
    def columns(self) -> frozenset[str]:
        """The same, without what is there for every template."""
        return self._names - self._globals.keys() - {"row", SELF}

    def _instead_of(self, value: Any, column: str | None) -> str | None:
        """What to write in place of a value that is no text."""
        if callable(value):
            return "write () to call it"
        if not isinstance(value, Iterable):
            return None
        goes_along = words("what is an image goes along with ", Setting("images", [column or "COLUMN"]))
        if isinstance(value, str):
            return goes_along if self._has_media else "make text of them in a step before"
        several = "" if isinstance(value, dict) else "| join(', ') writes its items, "
        as_json = f"{several}| tojson writes it as JSON"
        if column is None or not (self._has_media and _may_be_media(value)):
            return as_json if isinstance(value, dict | list) else "add | list, and | join(', ') or | tojson"
        return words(f"{as_json}; ", goes_along)

    def _missing(self, row: Row, error: MissingColumn) -> InputError:
        missing = "self" if error.name == SELF else error.name
        record = row.record
        if missing in record:  # and yet out of reach, such as in a macro
            return row_error(row, f"the {self._role} template: {error}")
        near = nearest_name(missing, record)
        problem = f"the {self._role} template needs a column {missing!r}; it has {list_columns(record)}"
        return row_error(row, problem, None if near is None else f"did you mean {near!r}?")

    def _null(self, row: Row) -> InputError:
        record = row.record
        nulls = [name for name in sorted(self._names) if name in record and record[name] is None]
        what = f"the column {nulls[0]!r}" if nulls else "a value of the template"
        name = nulls[0] if nulls else "value"
        return row_error(
            row,
            f"{what} is null, and the {self._role} would read 'None'",
            f"say what stands for it: {{{{ {name} or 'unknown' }}}}",
        )


def _may_be_media(value: Any) -> bool:
    """Whether it looks as Hugging Face's features of images and sound do, or is a list of such."""
    if isinstance(value, list):
        return any(map(_may_be_media, cast("list[Any]", value)))
    return isinstance(value, dict) and not _MEDIA_FIELDS.isdisjoint(cast("dict[str, Any]", value))


_MEDIA_FIELDS = frozenset(("bytes", "path", "array", "url"))
