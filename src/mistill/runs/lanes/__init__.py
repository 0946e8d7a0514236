"""How requests travel: live, each by itself, or as lines of batch jobs."""

from __future__ import annotations

from typing import Protocol


class Lane(Protocol):
    """Answers rows."""

    async def run(self) -> None:
        """Returns when all rows are done, or it was stopped and nothing of ours is under way any more."""
        ...

    def stop(self) -> None:
        """Sends nothing more; what is in flight is waited for."""
        ...

    def abandon(self) -> None:
        """Waits for nothing: what is in flight is cut off."""
        ...

    def pause(self) -> None:
        """Sends nothing more until `resume`, or `stop`; what is in flight comes home."""
        ...

    def resume(self) -> None:
        """Goes on, if it was paused."""
        ...

    def resize(self, size: int) -> None:
        """From now on, so many rows are asked at once."""
        ...

    def hold_open(self) -> None:
        """From now on there is a budget: requests in flight are held against it."""
        ...
