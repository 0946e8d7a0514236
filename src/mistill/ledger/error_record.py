"""An error as the ledger keeps it: data, from which the same error can be made again."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from mistill import errors
from mistill.characters import whole_characters
from mistill.errors import MistillError, RateLimits, StopReason
from mistill.wording import Part, Wording, Words, worded


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
        parts: of ``message`` and ``hint``, where they name settings: what they are made of, see ``mistill.wording``.
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
    parts: dict[str, list[Part]] | None = None

    @classmethod
    def of(cls, error: MistillError) -> ErrorRecord:
        """The record of an error."""
        fields: dict[str, Any] = {
            name: getattr(error, name, None) for name in cls.__struct_fields__ if name not in _OF_TEXTS
        }
        return cls(**fields, **_texts(error.message, error.hint))

    @classmethod
    def made(cls, kind: str, message: str, hint: str | None) -> ErrorRecord:
        """The record of an error that was never raised."""
        return cls(kind=kind, **_texts(message, hint))

    @property
    def words(self) -> tuple[str, str | None]:
        """Message and hint, which name settings by what they are made of."""
        parts = self.parts or {}
        message, hint = (Words(parts[name]) if name in parts else None for name in ("message", "hint"))
        return message or self.message, hint or self.hint

    def worded(self, wording: Wording) -> ErrorRecord:
        """The same in the words of a place."""
        message, hint = self.words
        worded_hint = None if hint is None else worded(hint, wording)
        return msgspec.structs.replace(self, message=worded(message, wording), hint=worded_hint, parts=None)

    def to_error(self) -> MistillError:
        """An error of the kind that was recorded, with all that the record has; `MistillError` for an unknown kind.

        What the record does not keep is as the class has it: ``partial``, ``attempts``, a misfit's ``text``,
        ``changes``.
        """
        kind = _KINDS.get(self.kind, MistillError)
        error = kind.__new__(kind)
        error.message, error.hint = self.words
        error.args = (error.message,)
        for name in self.__struct_fields__:
            # What the record has not, is as the class has it.
            if name not in ("kind", *_OF_TEXTS) and getattr(self, name) is not None:
                setattr(error, name, getattr(self, name))
        return error

    def __str__(self) -> str:
        """``rate_limited: requests exceeded (wait)``: the kind first, for a reader who groups."""
        return f"{self.kind}: {self.message}" + (f" ({self.hint})" if self.hint else "")


_OF_TEXTS = ("message", "hint", "parts")


def _texts(message: str, hint: str | None) -> dict[str, Any]:
    """Message and hint as plain text, and what they are made of where they name settings."""
    texts = {"message": message, "hint": hint}
    parts = {name: list(text.parts) for name, text in texts.items() if isinstance(text, Words)}
    plain = {name: text if text is None else str(text) for name, text in texts.items()}
    return plain | {"parts": parts or None}


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
        whole = {
            name: whole_characters(value) if isinstance(value, str) else value for name, value in kept.items()
        }
        whole.pop("parts", None)
        return msgspec.json.encode(whole).decode()


def decode_error(text: str | bytes) -> ErrorRecord:
    """What `encode_error` wrote, in this version or an earlier one."""
    return _decoder.decode(text)
