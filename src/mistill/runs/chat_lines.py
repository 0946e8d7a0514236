"""Rows of a run → conversations for fine-tuning, one a line: ``{"messages": [...]}``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

import msgspec

from mistill.datasets.sources import name_of
from mistill.errors import InputError, MistillError, WrongFile, did_you_mean
from mistill.finish_reasons import CUT_BY, CUT_OFF
from mistill.kinds.chat import ChatKind
from mistill.kinds.kept_settings import read_settings
from mistill.ledger import LedgerReader, LedgerRow
from mistill.ledger.conditions import NOTHING, look_up
from mistill.llms.conversations import encode_conversation
from mistill.progress.formatting import count
from mistill.records.answer_values import column_value
from mistill.records.columns import nearest_and_all
from mistill.runs.ledger_rows import ASKED_AGAIN, LedgerRows
from mistill.runs.record_lines import answer_columns, record_line
from mistill.runs.record_shape import RecordShape
from mistill.wording import Setting, words

Turns = Mapping[str, str] | Iterable[tuple[str, str]]

_ROLES: Final = ("system", "user", "assistant", "tool", "messages")
_MAX_NAMED = 5
_MAX_SHOWN = 80


class ChatLines:
    """Makes the lines, and remembers what was wrong and what was left out.

    Args:
        shape: of the run's records, whose columns ``turns`` may name.
        turns: who says what, in order: a role and the column with its words; ``messages`` and a column with messages.
            ``None``: what the run asked, and what was answered.

    Raises:
        InputError: there is no such role or column, or the run asked for no text.
    """

    def __init__(self, reader: LedgerReader, shape: RecordShape, turns: Turns | None) -> None:
        kept = read_settings(reader)
        self._shape = shape
        self._rows = LedgerRows(reader.path, ASKED_AGAIN)
        self._id_column = kept.options.id_column
        self._turns = None if turns is None else _checked(turns)
        self._tools: Any = None
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._wrong: list[str] = []
        self._lines = self._wrong_lines = 0
        if self._turns is not None:
            self._check_columns(reader, self._turns)
        elif not issubclass(kept.kind, ChatKind):
            raise InputError(
                f"this run asked for {kept.kind.asked_for}, which are no conversations",
                hint=words("say who says what: ", Setting("turns", {"user": "text", "assistant": "label"})),
            )
        else:
            self._tools = cast("Any", kept.manifest).parameters.get("tools")

    @property
    def columns(self) -> list[str]:
        """What a line has."""
        return ["messages", *(["tools"] if self._tools else [])]

    def __call__(self, row: LedgerRow) -> Iterator[bytes]:
        """The lines of one row: one, or as many as it has generations."""
        if row.state != "completion":
            self._left_out["row", "that failed"] += 1
            return
        try:
            found = list(self._of_run(row) if self._turns is None else self._of_turns(row, self._turns))
        except MistillError as error:
            found = [error]
        for messages in found:
            if messages is None:
                continue
            self._lines += 1
            try:
                if isinstance(messages, MistillError):
                    raise messages
                yield self._line(messages)
            except MistillError as error:
                self._note(row, error)

    @property
    def left_out(self) -> str:
        """What is not in the lines, in words; empty where nothing is missing."""
        return ", ".join(f"{count(number, noun)} {why}" for (noun, why), number in self._left_out.items())

    def check(self, to: object) -> None:
        """Call this when all lines are made, and before the file is whole.

        Raises:
            InputError: some are no conversations; says which, and why.
        """
        if self._wrong_lines:
            more = self._wrong_lines - len(self._wrong)
            named = "; ".join(self._wrong) + (f"; and {more:,} more" if more else "")
            raise InputError(
                f"{self._wrong_lines:,} of {self._lines:,} lines of {to} would be no conversation: {named}",
                hint=words("leave such rows out with a condition: ", Setting("where")),
            )

    # --- what is said -----------------------------------------------------------------------------------------------

    def _of_run(self, row: LedgerRow) -> Iterator[list[Any] | None]:
        settings = self._shape.settings_of(row)
        try:
            asked = settings.sent_of(row, self._rows)
        except WrongFile:
            self._left_out["row", "with a file that is not there or not as the run read it"] += 1
            return
        for completion in (one for body in row.answers for one in settings.answers.read(body)):
            if completion.finish_reason in CUT_OFF:
                self._left_out["answer", f"cut off by {CUT_BY[completion.finish_reason]}"] += 1
                yield None
                continue
            answer = msgspec.structs.replace(completion, thinking=None).as_message()
            if settings.answers.schema is not None and isinstance(
                said := column_value(completion.text, completion.value), str
            ):
                answer["content"] = said
            yield [*asked, {name: value for name, value in answer.items() if value is not None}]

    def _of_turns(self, row: LedgerRow, turns: Sequence[tuple[str, str]]) -> Iterator[list[Any] | None]:
        if row.finish_reason in CUT_OFF:
            self._left_out["answer", f"cut off by {CUT_BY[row.finish_reason]}"] += 1
            return
        columns = _Columns(row, self._shape)
        messages: list[Any] = []
        for role, column in turns:
            value = columns.value(column)
            if value is NOTHING or value is None or value == "":
                if role == "system":
                    continue  # not every row needs one
                self._left_out["row", f"with nothing in {column!r}"] += 1
                return
            messages += _messages_of(role, column, value)
        yield messages

    def _check_columns(self, reader: LedgerReader, turns: Sequence[tuple[str, str]]) -> None:
        missing = {column for _, column in turns}
        known: dict[str, None] = {}
        for row in reader.rows():
            if row.state == "completion":
                columns = _Columns(row, self._shape)
                missing = {column for column in missing if columns.value(column) is NOTHING}
                known.update(dict.fromkeys(columns.all))
            if known and not missing:
                return
        for column in sorted(missing) if known else ():
            raise InputError(
                words(Setting("turns"), f": there is no column {column!r}"),
                hint=nearest_and_all(column, known),
            )

    def _line(self, messages: list[Any]) -> bytes:
        record: dict[str, Any] = {"messages": msgspec.Raw(encode_conversation(messages))}
        if self._tools:
            record["tools"] = self._tools
        return msgspec.json.encode(record)

    def _note(self, row: LedgerRow, error: MistillError) -> None:
        self._wrong_lines += 1
        if len(self._wrong) < _MAX_NAMED:
            name = name_of(row.record, self._id_column)
            named = f"row {row.position}" + (f", {name}" if name else "")
            self._wrong.append(f"line {self._lines} ({named}): {error.message.removeprefix('input: ')}")


class _Columns:
    """The columns of a row and of its answer, by every name that they may have; those of the output go first."""

    def __init__(self, row: LedgerRow, shape: RecordShape) -> None:
        self._own: dict[str, Any] = msgspec.json.decode(row.record)
        self._answer = answer_columns(row, shape)
        output: dict[str, Any] = msgspec.json.decode(record_line(row, shape))
        self.all = self._own | self._answer | output

    def value(self, name: str) -> Any:
        """What ``name``, ``row.NAME`` or ``answer.NAME`` stands for; `NOTHING` where there is no such column."""
        found = look_up(self.all, name)
        scope, dot, rest = name.partition(".")
        if found is NOTHING and dot and scope in ("row", "answer"):
            return look_up(self._own if scope == "row" else self._answer, rest)
        return found


def _checked(turns: Turns) -> list[tuple[str, str]]:
    found = list(cast("Mapping[str, str]", turns).items() if isinstance(turns, Mapping) else turns)
    for role, _ in found:
        if role not in _ROLES:
            raise InputError(
                words(Setting("turns"), f": there is no role {role!r}"), hint=did_you_mean(role, _ROLES)
            )
    if not found:
        raise InputError(words(Setting("turns"), ": nobody says anything"))
    return found


def _messages_of(role: str, column: str, value: Any) -> list[Any]:
    if role in ("messages", "tool") and isinstance(value, str) and value.startswith(("[", "{")):
        try:
            value = msgspec.json.decode(value)  # of a CSV file, where all is text
        except (msgspec.MsgspecError, RecursionError) as error:
            raise InputError(f"the column {column!r} is text, but not the JSON of messages") from error
    if role == "messages":
        if not isinstance(value, list):
            raise InputError(f"the column {column!r} is no list of messages")
        return cast("list[Any]", value)
    if isinstance(value, list) and value and all(_is_call(one) for one in cast("list[Any]", value)):
        return [{"role": role, "tool_calls": value}]
    if role == "tool" and isinstance(value, list):
        return [{"role": role, **_tool_message(column, one)} for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return [{**cast("dict[str, Any]", value), "role": role}]
    if isinstance(value, (int, float)):
        value = msgspec.json.encode(value).decode()  # a label or a score
    return [{"role": role, "content": value}]


def _tool_message(column: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(
            f"the column {column!r} is a list with {_shown(value)} in it, which is no message of a tool",
            hint='each is an object with "content" and "tool_call_id"',
        )
    return cast("dict[str, Any]", value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def _is_call(value: Any) -> bool:
    return isinstance(value, dict) and "function" in value
