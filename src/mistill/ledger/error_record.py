"""An error as the ledger keeps it: data, from which the same error can be made again."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mistill import errors
from mistill.errors import MistillError, RateLimits, StopReason


class ErrorRecord(Struct, frozen=True, kw_only=True):
    """One error.

    Attributes:
        kind: its stable name, see ``mistill.errors``.
        retryable: whether another attempt could have helped.
        status, code, error_type, correlation_id: of an HTTP answer, where there was one.
        path: where a paid answer does not fit its schema.
        maybe_billed: whether it may cost money though no answer came.
        retry_after_s, limits: what the answer said of waiting and of the quota.
        index: the row's place in its call, of an input that was refused.
        reason: why work was stopped on purpose.
    """

    kind: str
    message: str
    hint: str | None = None
    retryable: bool = False
    status: int | None = None
    code: str | None = None
    error_type: str | None = None
    correlation_id: str | None = None
    path: str | None = None
    maybe_billed: bool = False
    retry_after_s: float | None = None
    limits: RateLimits | None = None
    index: int | None = None
    reason: StopReason | None = None

    @classmethod
    def of(cls, error: MistillError) -> ErrorRecord:
        """The record of an error."""
        fields: dict[str, Any] = {name: getattr(error, name, None) for name in cls.__struct_fields__}
        return cls(**fields)

    def to_error(self) -> MistillError:
        """An error of the kind that was recorded, with all that the record has; `MistillError` for an unknown kind.

        What the record does not keep is as the class has it: ``partial``, ``attempts``, a misfit's ``text``,
        ``changes``.
        """
        kind = _KINDS.get(self.kind, MistillError)
        error = kind.__new__(kind)
        error.args = (self.message,)
        for name in self.__struct_fields__:
            # What the record has not, is as the class has it.
            if name == "hint" or (name != "kind" and getattr(self, name) is not None):
                setattr(error, name, getattr(self, name))
        return error

    def __str__(self) -> str:
        """``rate_limited: requests exceeded (wait)``: the kind first, for a reader who groups."""
        return f"{self.kind}: {self.message}" + (f" ({self.hint})" if self.hint else "")


def _all_kinds(kind: type[MistillError]) -> dict[str, type[MistillError]]:
    found = {kind.kind: kind}
    for narrower in kind.__subclasses__():
        # A class without a name of its own (a row's wrong parameter) goes by its parent's.
        found = _all_kinds(narrower) | found
    return found


_KINDS = _all_kinds(errors.MistillError)
_decoder = msgspec.json.Decoder(ErrorRecord)


def encode_error(error: MistillError) -> str:
    """An error as JSON: kind, message, hint, retryable, and those of its particulars that it has."""
    return encode_error_record(ErrorRecord.of(error))


def encode_error_record(record: ErrorRecord) -> str:
    """The same, of an error's record. What no text can hold (half a character of UTF-16) is replaced."""
    fields: dict[str, Any] = msgspec.to_builtins(record)
    kept = {name: value for name, value in fields.items() if value is not None or name == "hint"}
    try:
        return msgspec.json.encode(kept).decode()
    except UnicodeEncodeError:
        whole = {name: whole_text(value) if isinstance(value, str) else value for name, value in kept.items()}
        return msgspec.json.encode(whole).decode()


def whole_text(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair, which UTF-8 and so SQLite cannot hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def decode_error(text: str | bytes) -> ErrorRecord:
    """What `encode_error` wrote, in this version or an earlier one."""
    return _decoder.decode(text)
