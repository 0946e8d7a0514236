"""The error of a call over many rows: what failed, and everything that did not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, TypeVar

from mistill.api.errors import MistillError

E = TypeVar("E", bound=Exception)


class GenerationError(ExceptionGroup[MistillError]):
    """Some rows of a call failed; the others were answered, and are here.

    Attributes:
        outputs: what the call would have returned, with ``None`` for each failed row.
        failures: the error of each failed row, by the row's index.
    """

    outputs: list[Any]
    failures: dict[int, MistillError]

    @classmethod
    def of(cls, outputs: Sequence[Any], failures: Mapping[int, MistillError]) -> Self:
        """The error of a call, from what it would have returned and what went wrong."""
        index, first = min(failures.items())
        message = f"{len(failures)} of {len(outputs)} rows failed; the first is row {index}: {first}"
        group = cls(message, list(failures.values()))
        group.outputs = list(outputs)
        group.failures = dict(failures)
        return group

    def derive(self, excs: Sequence[E], /) -> ExceptionGroup[E]:  # pyright: ignore[reportIncompatibleMethodOverride]  only errors get in
        return ExceptionGroup(self.message, excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).of, (self.outputs, self.failures))
