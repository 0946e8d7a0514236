"""The simulator as a child process, for measurements that must not share an interpreter with it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any, Self

import msgspec
from pydantic import SecretStr

from mistill.child_environment import child_environment
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import Stats
from mistill.struct_types import look_at

_END_TIMEOUT_S = 10.0


class SimulatorProcess:
    """A simulated Mistral API in a process of its own, for as long as the ``with`` block lasts.

    Attributes:
        url: its address, without ``/v1``.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings or Settings()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def pid(self) -> int:
        return self._child().pid

    def __enter__(self) -> Self:
        # -P: nothing of the working directory runs in the place of a module.
        command = [sys.executable, "-P", "-m", "mistill.simulator.process_entry"]
        self._process = subprocess.Popen(  # noqa: S603  our own module
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()
        )
        try:
            self.url = self._ask(_plain(self._settings))["url"]
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process is None:
            return
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._process = None

    def stats(self) -> Stats:
        """All its counts."""
        return msgspec.convert(self._ask({"stats": True}), Stats)

    def billed_ids(self) -> Counter[str]:
        """How often the line of each ``custom_id`` was billed, over all batch jobs."""
        return Counter(self._ask({"billed_ids": True}))

    def change(self, **changes: Any) -> None:
        """Change these settings from the next request on.

        Raises:
            ValueError: as `Settings` does.
        """
        self._settings = self._settings.changed(changes)
        self._ask({"change": _plain(self._settings)})

    def _child(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the simulator runs inside its `with` block only")
        return self._process

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        child = self._child()
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(msgspec.json.encode(command) + b"\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if not line:
            raise RuntimeError("the simulator's process ended; its stderr says why")
        return msgspec.json.decode(line)


def _plain(settings: Settings) -> dict[str, Any]:
    """Settings as JSON that builds them again, with the accepted keys in the open: for the pipe only."""
    plain = settings.model_dump(mode="json")
    for name in ("api_keys", "admin_keys"):
        keys: frozenset[SecretStr] | None = getattr(settings, name)
        if keys is not None:
            plain[name] = [key.get_secret_value() for key in keys]
    return plain


look_at(Stats)
