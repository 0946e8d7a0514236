"""A Ray cluster as machines to work on: it places workers and starts them again, and sees no row, key or answer."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from mistill.datasets.optional_library import OptionalLibrary
from mistill.delivery.governors import environment_of_sharing
from mistill.errors import InputError
from mistill.shards.processes import pickled
from mistill.shards.ray_workers import RayWorkers
from mistill.shards.workers import Setup, Work, Workers
from mistill.wording import Setting, words

_ANSWERS_WITHIN_S: Final = 5.0
_CONNECTS_WITHIN_S: Final = 30.0
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_VARIABLE: Final = "RAY_ADDRESS"


class RayCluster:
    """See `Machines`.

    Args:
        ray: the library, connected to the cluster.
    """

    are_apart = True
    most_workers = 1024

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self.host: str = ray.util.get_node_ip_address()
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 0)))

    def at_work(self, count: int, work: Work, folder: Path) -> Workers:
        setup = Setup(pickled(work, self._ray.cloudpickle.dumps), environment_of_sharing())
        return RayWorkers(self._ray, self.host, count, setup, folder)


@contextmanager
def connected(address: str | None) -> Generator[RayCluster]:
    """The cluster, for as long as the block takes.

    Args:
        address: ``HOST:PORT`` of its head; ``None``: the one that this program uses already, that ``RAY_ADDRESS``
            names, or that runs on this machine; where there is none, a new one of this machine alone.

    Raises:
        InputError: Ray is not installed, or no cluster is there.
    """
    ray = OptionalLibrary("ray", extra="ray").load("a run on Ray")
    if ray.is_initialized():
        _check_same(ray, address)
        yield RayCluster(ray)
        return
    named = address or os.environ.get(_VARIABLE) or None
    _check_there(ray, named)
    _connect(ray, named)
    try:
        yield RayCluster(ray)
    finally:
        ray.shutdown()


def _connect(ray: Any, named: str | None) -> None:
    """To the cluster of this address, or to one that runs here; else a new one is started."""
    try:
        _init_in_time(ray, named or "auto")
    except ConnectionError as error:
        if named is not None:
            raise _unusable(named, error) from error
        with _own_handlers():
            # In this thread: its processes end with the one that has started them.
            _init(ray, "local")
    except (OSError, RuntimeError, ValueError) as error:
        raise _unusable(named, error) from error


def _init_in_time(ray: Any, address: str) -> None:
    """Ray itself waits without end for a cluster that does not answer."""
    ended: Future[None] = Future()

    def init() -> None:
        try:
            _init(ray, address)
            ended.set_result(None)
        except BaseException as error:  # of any type: it is raised where this was begun
            ended.set_exception(error)

    threading.Thread(target=init, name="mistill-ray", daemon=True).start()
    try:
        ended.result(_CONNECTS_WITHIN_S)
    except TimeoutError:
        raise OSError(f"it does not answer as one within {_CONNECTS_WITHIN_S:g} s") from None


def _init(ray: Any, address: str) -> None:
    logger = logging.getLogger("ray")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what is wrong is raised
    try:
        # Nobody looks at a dashboard of a cluster that is ours alone, and what its workers print is no word of ours.
        ray.init(address=address, include_dashboard=False, log_to_driver=False, configure_logging=False)
    finally:
        logger.setLevel(before)


def _unusable(named: str | None, error: Exception) -> InputError:
    where = "here" if named is None else f"at {named}"
    # That a token is missing or another one, Ray writes to standard error alone: its exception does not say it.
    return InputError(
        f"no Ray cluster can be used {where}: {str(error).strip().partition(_LINE)[0]}",
        hint=words(
            _HINT,
            "; where it asks for a token (Ray has warned of InvalidAuthToken), set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN unless ~/.ray/auth_token here is that of its nodes",
        ),
    )


_LINE: Final = "\n"
_HINT: Final = words(
    "start this on a machine of the cluster, with the address that `ray start --head` tells, such as ",
    Setting("on", "ray://10.0.0.5:6379"),
    "; not by the port of Ray Client, 10001 as a rule",
)


def _check_same(ray: Any, address: str | None) -> None:
    """The program is connected to a cluster already: to the one that is meant."""
    if ray.util.client.ray.is_connected():
        raise InputError(
            "this program uses Ray Client, through which nothing can be sent back to it", hint=_HINT
        )
    uses = ray.get_runtime_context().gcs_address
    if address is not None and address != uses:
        raise InputError(
            words(
                Setting("on", f"ray://{address}"),
                f": this program is connected to another Ray cluster, {uses}",
            ),
            hint=words("leave the address out, or call ray.shutdown() before"),
        )


def _check_there(ray: Any, named: str | None) -> None:
    """Somebody listens at the address: that costs less time than to find out that it is no cluster."""
    if named is None:
        return
    if named.startswith("ray://"):
        raise InputError(f"{_VARIABLE} is {named}, the address of Ray Client", hint=_HINT)
    host, _, port = named.rpartition(":")
    if not host or not port.isdecimal():
        return
    if host in _LOOPBACK:  # which Ray takes for what others know this machine by
        host = ray.util.get_node_ip_address()
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWERS_WITHIN_S).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"no Ray cluster answers at {named}: {error}", hint=_HINT) from error


@contextmanager
def _own_handlers() -> Generator[None]:
    """Within the block, Ray puts a handler of its own in the place of ours, which ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
