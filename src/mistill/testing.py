"""For tests of programs that use mistill."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from mistill.delivery.tuning import Tuning, use_tuning

__all__ = ["without_waiting"]


@contextmanager
def without_waiting() -> Generator[None]:
    """Within the block, what mistill waits by its own choice is too short to be felt, in all threads.

    Pauses after refusals and in outages are a hundredth of what they are, those between a row's attempts a few
    milliseconds at most, and a server that fails everything is given up after 3 s in place of 300. How it decides, and
    how often it tries, stays as it is. What others ask for is still waited for: a server's ``Retry-After``, a quota.

    It is read when a model first sends: make the model within the block, or at least do not use it before.
    """
    with use_tuning(Tuning().without_waiting()):
        yield
