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
