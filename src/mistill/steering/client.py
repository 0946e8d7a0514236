"""Orders go out: to a start that goes on in another process of the same user."""

from __future__ import annotations

import math
import os
import shlex
import socket
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from mistill.errors import InputError, LedgerError
from mistill.ledger import LedgerReader
from mistill.ledger.files import lock_of, main_name
from mistill.ledger.lock import holder_of, is_held
from mistill.ledger.permissions import is_denied, owner_of
from mistill.ledger.shard_files import files_of, is_in_shards, whole_of
from mistill.progress.view import View
from mistill.steering.address import find_address
from mistill.steering.orders import Answer, Order, OrderName, Standing, decode_answer
from mistill.steering.peer import peer_of
from mistill.wording import Phrase, words

_ANSWERS_WITHIN_S = 10.0
_LOOK_S = 0.02
_MOST_NAMED = 3
"""Ledgers, in one message."""


class Control:
    """Steers the start of a run that goes on, wherever on this machine that is the same user's.

    ``Run.open("answers.jsonl").control()`` gives one. Each call is obeyed when it returns; what is refused raises
    ``InputError``, and nothing was changed.

    Args:
        ledger: of the run; of one in shards the folder, for all of them, or that of a shard.
        begins_within_s: how long a start that has its ledger is given to take orders.
    """

    def __init__(self, ledger: Path, *, begins_within_s: float = 2.0) -> None:
        self.ledger = whole_of(ledger) if is_in_shards(ledger) else ledger
        self._run = ledger
        self._begins_within_s = begins_within_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.ledger)!r})"

    def standing(self) -> Standing:
        """What may be set and is what now, and whether it is paused."""
        return self._standing("show")

    def pause(self) -> Standing:
        """Sends nothing more until `resume`, and makes no batch job; what is in flight comes home."""
        return self._standing("pause")

    def resume(self) -> Standing:
        """Goes on after a pause."""
        return self._standing("resume")

    def stop(self) -> Standing:
        """Ends it as one Ctrl-C does: what is in flight is waited for, at most ``grace`` seconds."""
        return self._standing("stop")

    def set(self, **settings: Any) -> Standing:
        """Changes settings, all or none: ``max_cost=20, max_concurrent_requests=16``; ``None``: no limit."""
        for name, value in settings.items():
            if isinstance(value, float) and not math.isfinite(value):  # which JSON does not have
                raise InputError(f"{name} must be a number, not {value}", hint="None is no limit")
        return self._standing("set", settings)

    def view(self) -> View:
        """How far the work is."""
        answer = self.send(Order("view"))
        assert answer.view is not None, "it was asked for"
        return answer.view

    def views(self, every_s: float = 1.0) -> Iterator[View]:
        """How far the work is, again and again; the last one as it ends, unless it is killed.

        One whose process is suspended is waited for: it tells on when it goes on.

        Raises:
            InputError: no start goes on, or the one that does cannot be reached.
        """
        with self._connected() as exchange:
            answer = exchange(Order("view", every_s=every_s))
            exchange.wait_for_ever()
            while answer.view is not None:
                yield answer.view
                if answer.view.is_last:
                    return
                try:
                    answer = exchange.further()
                except InputError:  # it was killed
                    return

    def send(self, order: Order) -> Answer:
        """An order, and what was answered.

        Raises:
            InputError: it was refused, no start goes on, or the one that does cannot be reached.
            LedgerError: no start goes on, and none can, since the ledger is damaged.
            MistillError: it was obeyed, and something is wrong with its ledger.
        """
        with self._connected() as exchange:
            return exchange(order)

    def _standing(self, do: OrderName, settings: dict[str, Any] | None = None) -> Standing:
        answer = self.send(Order(do, settings or {}))
        assert answer.standing is not None, "each order but a view is answered so"
        return answer.standing

    @contextmanager
    def _connected(self) -> Generator[Exchange]:
        connection = self._connect()
        with connection, connection.makefile("rb") as file:
            yield Exchange(self, connection, file)

    def _connect(self) -> socket.socket:
        give_up_at = time.monotonic() + self._begins_within_s
        while True:
            if is_denied(lock_of(main_name(self.ledger)[0])):
                raise self._is_hidden()
            if not is_held(main_name(self.ledger)[0]):
                raise self._nothing_goes_on()
            if (connection := self._try_connect()) is not None:
                return connection
            if time.monotonic() >= give_up_at:
                raise self._out_of_reach()
            time.sleep(_LOOK_S)

    def _try_connect(self) -> socket.socket | None:
        address = find_address(self.ledger) if hasattr(socket, "AF_UNIX") else None
        if address is None:
            return None
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_ANSWERS_WITHIN_S)
            connection.connect(str(address))
            peer = peer_of(connection)
            if peer is not None and peer.user == os.getuid():
                return connection
        except OSError:  # of a start that was killed
            pass
        connection.close()
        return None

    def _is_hidden(self) -> InputError:
        lock = lock_of(main_name(self.ledger)[0])
        owner = owner_of(lock) or "another user"
        return InputError(
            f"{owner} has started the run in {self._run}: this user may not see whether it goes on (permission denied: "
            f"{lock}), and it would take no orders from here",
            hint=f"order it as {owner}; a start that was killed leaves that file there, too",
        )

    def _nothing_goes_on(self) -> InputError:
        if self._run.exists():
            with LedgerReader(self._run) as reader:
                reader.counts()  # of one that is damaged, who starts it would hear just that
        if at_work := self._shards_at_work():
            named = ", ".join(path.name for path in at_work[:_MOST_NAMED])
            first = shlex.quote(str(at_work[0]))
            return InputError(
                f"no process drives all shards of the run in {self._run}: each that is at work ({named}"
                f"{', …' if len(at_work) > _MOST_NAMED else ''}) was started by itself",
                hint=words(
                    "steer each by its own ledger: ",
                    Phrase(f"Run.open({str(at_work[0])!r}).control()", f"mistill ctl {first}"),
                ),
            )
        return InputError(
            f"no start of the run in {self._run} goes on",
            hint=words(
                "start it, with other settings if need be: ",
                Phrase("run.start()", "the same command again, with other options"),
            ),
        )

    def _shards_at_work(self) -> list[Path]:
        return [path for path in files_of(self._run) if is_held(path)] if is_in_shards(self._run) else []

    def _out_of_reach(self) -> InputError:
        process = holder_of(main_name(self.ledger)[0])
        with suppress(LedgerError), LedgerReader(self._run) as reader:
            if reader.counts().is_finished:
                return InputError(
                    f"every row of the run in {self._run} has come to its end, and its output is being written",
                    hint="there is nothing left to steer; Ctrl-C where it runs leaves the output unwritten, and every "
                    "answer in the ledger",
                )
        which = "the run goes on" + ("" if process is None else f" in process {process}")
        return InputError(
            f"{which}, and takes no orders from here: it is on another machine, in a container, another user's, or of "
            "an older version of mistill",
            hint="order it where it runs, as the user who has started it; there, Ctrl-C, or `kill -INT` and the "
            "process, stops it in any case",
        )


class Exchange:
    """Orders and answers over one connection."""

    def __init__(self, control: Control, connection: socket.socket, file: Any) -> None:
        self._control = control
        self._connection = connection
        self._file = file

    def __call__(self, order: Order) -> Answer:
        """Sends it, and gives what was answered, as `Control.send` does."""
        with suppress(OSError):  # then it has left, and nothing is to be read
            self._connection.sendall(msgspec.json.encode(order) + b"\n")
        return self.further()

    def wait_for_ever(self) -> None:
        """Further answers may come whenever they like: a process that ends, however it does, closes its connections."""
        self._connection.settimeout(None)

    def further(self) -> Answer:
        """A further answer to the same order."""
        try:
            line = self._file.readline()
        except TimeoutError:
            raise InputError(
                f"the run in {self._control.ledger} does not answer",
                hint="see whether its process is suspended; the order may still be obeyed",
            ) from None
        except OSError:
            line = b""
        if not line:
            raise InputError(
                f"the run in {self._control.ledger} has ended in this moment",
                hint=words("see how: ", Phrase("Run.open(…).report()", "`mistill status`")),
            )
        try:
            answer = decode_answer(line)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InputError(
                f"the run answers what is not understood here: {error}",
                hint="use the version of mistill that runs it",
            ) from error
        if answer.error is not None:
            raise answer.error.to_error()
        return answer
