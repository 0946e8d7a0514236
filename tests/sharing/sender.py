"""``python -m tests.sharing.sender '{"at_once": 4}'``: a process that sends requests by a governor that is shared.

They are answered at once, by nobody. It says a line when it has begun, and one for each line that it is told:
``state``; ``fork``, which makes a child that does nothing; ``end``.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading

from tests.sharing.peers import NAME, QUICK

from mistill.delivery import governors
from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit, Governor
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.place import place_of


class Sender:
    def __init__(self, at_once: int) -> None:
        place = place_of(NAME)
        assert place is not None
        self.governor: AnyGovernor = governors._participant.governor(place, NAME, QUICK, None)
        self.sent = 0
        self._at_once = at_once

    async def send_for_ever(self) -> None:
        limit = ConcurrencyLimit(max(1, self._at_once))

        async def work() -> None:
            while True:
                permit = self.governor.try_admit(limit, 1) or await self.governor.admit(limit, 1)
                await asyncio.sleep(0.01)
                self.governor.settle(permit, tokens=1)
                self.sent += 1

        await asyncio.gather(*(work() for _ in range(self._at_once)))


def main() -> None:
    sender = Sender(json.loads(sys.argv[1]).get("at_once", 4))
    threading.Thread(target=lambda: asyncio.run(sender.send_for_ever()), daemon=True).start()
    print("{}", flush=True)
    for line in sys.stdin:
        answer: dict[str, object] = {}
        match line.strip():
            case "state":
                governor = sender.governor
                answer = {
                    "sent": sender.sent,
                    "decides_itself": isinstance(governor, Governor)
                    or (isinstance(governor, GuestGovernor) and governor.decides_itself),
                    "alone_s": governor.snapshot().alone_s,
                }
            case "fork":
                child = os.fork()
                if not child:
                    signal.pause()
                answer = {"pid": child}
        print(json.dumps(answer), flush=True)
        if line.strip() == "end":
            return


if __name__ == "__main__":
    main()
