"""Made-up strings of the formats that JSON Schema and pydantic name."""

from __future__ import annotations

import base64
import datetime
import random
import uuid
from collections.abc import Callable

_WORDS = (
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "harbor",
    "island",
    "juniper",
    "kettle",
    "lantern",
    "meadow",
    "nectar",
    "orchard",
    "pebble",
    "quarry",
    "river",
    "saffron",
    "timber",
    "umbra",
    "valley",
    "willow",
    "yonder",
    "zephyr",
)
_SHORTEST = min(map(len, _WORDS))
_FIRST_DAY = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_DAYS = 10_000
_DAY_S = 86_400


def words(rng: random.Random, min_length: int) -> str:
    """One to three words, or as many as ``min_length`` characters need."""
    text = " ".join(rng.choices(_WORDS, k=rng.randint(1, 3)))
    if missing := min_length - len(text):
        text += "".join(f" {rng.choice(_WORDS)}" for _ in range(-(-missing // _SHORTEST)))
    return text


def _moment(rng: random.Random) -> datetime.datetime:
    return _FIRST_DAY + datetime.timedelta(days=rng.randrange(_DAYS), seconds=rng.randrange(_DAY_S))


def _host(rng: random.Random) -> str:
    return f"{rng.choice(_WORDS)}.example.com"


TEXT_FORMATS: dict[str, Callable[[random.Random], str]] = {
    "date": lambda rng: _moment(rng).date().isoformat(),
    "date-time": lambda rng: _moment(rng).isoformat().replace("+00:00", "Z"),
    "time": lambda rng: _moment(rng).timetz().isoformat().replace("+00:00", "Z"),
    "duration": lambda rng: f"P{rng.randrange(30)}DT{rng.randrange(24)}H",
    "email": lambda rng: f"{rng.choice(_WORDS)}@{_host(rng)}",
    "name-email": lambda rng: f"{rng.choice(_WORDS)}@{_host(rng)}",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "uuid4": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "uri": lambda rng: f"https://{_host(rng)}/{rng.choice(_WORDS)}",
    "hostname": _host,
    "ipv4": lambda rng: f"192.0.2.{rng.randrange(256)}",
    "ipv6": lambda rng: f"2001:db8::{rng.randrange(1, 65_536):x}",
    "byte": lambda rng: base64.b64encode(rng.randbytes(6)).decode(),
    "base64": lambda rng: base64.b64encode(rng.randbytes(6)).decode(),
    "json-string": lambda rng: f'"{rng.choice(_WORDS)}"',
    "regex": lambda rng: f"^{rng.choice(_WORDS)}$",
}
