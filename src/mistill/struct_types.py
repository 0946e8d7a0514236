"""Types that are decoded, looked at before any thread decodes them."""

from __future__ import annotations

from threading import Lock
from typing import Any

import msgspec

_lock = Lock()


def look_at(*kinds: Any) -> None:
    """Of a module, once its types are defined: those that its functions decode or convert into.

    msgspec looks at a struct, and all that is in it, when it is first decoded. Where two threads do that at the same
    time, one of them decodes by what is half known, and the interpreter crashes. A module is imported by one thread.
    """
    with _lock:
        for kind in kinds:
            msgspec.json.Decoder(kind)
