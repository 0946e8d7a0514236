"""How a text file is written, where it does not say so itself: its encoding, and what stands between its fields."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Self

from msgspec import Struct

from mistill.errors import InputError
from mistill.wording import Setting, words

_NAMED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}
_REPLACE = "-replace"
_NOT_BETWEEN_FIELDS = frozenset('"\r\n\0')


class TextForm(Struct, frozen=True):
    """What was said of it; ``None``: nothing, so it is UTF-8, and its suffix says what is between fields.

    Attributes:
        encoding: as Python calls it: ``cp1252``, ``latin-1``, ``utf-16``; with ``-replace`` after it, U+FFFD stands for
            bytes that are none of it.
        delimiter: one character.
    """

    encoding: str | None = None
    delimiter: str | None = None

    @classmethod
    def of(cls, encoding: str | None, delimiter: str | None) -> Self:
        """What a user says; ``tab`` and the like are names of delimiters.

        Raises:
            InputError: Python knows no such encoding of text, or the delimiter can be none.
        """
        if delimiter is not None:
            delimiter = _NAMED.get(delimiter.lower(), delimiter)
            if len(delimiter) != 1 or delimiter in _NOT_BETWEEN_FIELDS:
                raise InputError(
                    words(
                        Setting("delimiter"),
                        f": {delimiter!r} is not one character that can stand between fields",
                    ),
                    hint="for example ; or tab",
                )
        if encoding is not None:
            try:
                "".encode(encoding.removesuffix(_REPLACE))
            except (LookupError, ValueError) as error:
                raise InputError(
                    words(Setting("encoding"), f": there is no encoding {encoding!r}"),
                    hint="for example cp1252, latin-1, utf-16, utf-8-replace",
                ) from error
            if not encoding.endswith(_REPLACE) and codecs.lookup(encoding).name == "utf-8":
                encoding = None  # as where nothing was said: errors then guess what else it may be
        return cls(encoding, delimiter)

    def to_utf8(self, chunks: Iterable[bytes], name: str) -> Iterator[bytes]:
        """A file's bytes, decompressed, as UTF-8.

        Raises:
            InputError: they are not of the encoding.
        """
        if self.encoding is None:
            yield from chunks
            return
        encoding = self.encoding.removesuffix(_REPLACE)
        decoder = codecs.getincrementaldecoder(encoding)("strict" if encoding == self.encoding else "replace")
        offset = 0
        try:
            for chunk in chunks:
                yield decoder.decode(chunk).encode()
                offset += len(chunk)
            yield decoder.decode(b"", final=True).encode()
        except UnicodeError as error:
            raise InputError(
                f"{name}: not {self.encoding}, from about byte {offset + getattr(error, 'start', 0)} on",
                hint=words(
                    "leave ",
                    Setting("encoding"),
                    " out where it is UTF-8, or name another one; to take U+FFFD for what is none: ",
                    Setting("encoding", encoding + _REPLACE),
                ),
            ) from error
