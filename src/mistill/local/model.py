"""``LocalModel``: the demo model as a child process, and ``serve``: the same in the foreground."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import secrets
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from pydantic import SecretStr

from mistill.child_environment import MODEL_LIBRARIES, child_environment
from mistill.errors import InputError, LocalModelError
from mistill.extras import install_command
from mistill.local.weights import ensure_weights

MODEL = "smollm2-135m-instruct"
API_KEY_ENV_VAR = "MISTILL_LOCAL_API_KEY"
_CHILD = Path(__file__).with_name("model_process.py")
_STDERR_LINES = 20
_HTTP_THREADS = 136  # 128 connections, and a few for /health and /v1/models
_START_TIMEOUT_S = 120.0  # 2 s on an idle machine; a cold disk and busy cores are allowed for
_STOP_TIMEOUT_S = 5.0


class LocalModel:
    """SmolLM2-135M-Instruct, served on 127.0.0.1 by a child process: the demo model, a toy in quality.

        with LocalModel() as local:
            MistralLLM(model=local.model, endpoint=local.endpoint, api_key=local.api_key)

    The first start fetches 98 MB of weights into the user's cache (see :mod:`mistill.local.weights`). The server speaks
    OpenAI's dialect (docs/local-model.md has what it does with each of Mistral's fields), answers up to ``slots``
    requests at once and queues the others, and gives each 2,048 tokens for prompt and answer together. The child ends
    with ``close()``, with the ``with`` block, and with this process however that ends.

    Args:
        slots: answers generated at the same time; also the largest ``n``.
        port: 0 takes a free one.
        api_key: what a request must carry; a random one if not given.
        say: called with a line for the user when something takes long (the first download).

    Raises:
        InputError: ``slots`` or ``port`` is out of range.
    """

    def __init__(
        self,
        *,
        slots: int = 8,
        port: int = 0,
        api_key: SecretStr | str | None = None,
        say: Callable[[str], object] | None = None,
    ) -> None:
        if slots < 1:
            raise InputError(f"slots must be at least 1, not {slots}")
        if not 0 <= port <= 65535:
            raise InputError(f"port must be between 0 and 65535, not {port}")
        self.model = MODEL
        self.slots = slots
        key = api_key.get_secret_value() if isinstance(api_key, SecretStr) else api_key
        self.api_key = SecretStr(key or secrets.token_urlsafe(32))
        self._port = port
        self._say = say
        self._endpoint: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._drain: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"LocalModel(model={self.model!r}, endpoint={self._endpoint!r}, slots={self.slots})"

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:PORT``, without ``/v1``.

        Raises:
            LocalModelError: it was not started.
        """
        if self._endpoint is None:
            raise LocalModelError(
                "the local model is not running", hint="use it in a `with` block, or call start()"
            )
        return self._endpoint

    @property
    def pid(self) -> int | None:
        """Process id of the child; None when it is not running."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Fetch the weights if they are missing, start the child, and return when it answers.

        Raises:
            LocalModelError: the extra is not installed, the weights cannot be had, or the child did not come up.
        """
        if self._process is not None:
            return
        if importlib.util.find_spec("xllamacpp") is None:
            raise LocalModelError(
                "the local model needs the package xllamacpp", hint=install_command("local")
            )
        weights = ensure_weights(say=self._say)
        try:
            self._process = self._spawn()
            self._send_settings(self._process, weights)
            self._endpoint = self._wait_for_address(self._process)
            self._wait_for_health(self._endpoint)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the child. Does nothing if it is not running."""
        process, self._process, self._endpoint = self._process, None, None
        if process is None:
            return
        assert process.stdin
        assert process.stdout
        process.stdin.close()  # the child ends at the end of its stdin
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._drain:
            self._drain.join()
        process.stdout.close()

    def wait(self) -> None:
        """Block until the child ends, which it never does by itself.

        Raises:
            LocalModelError: it ended; the message has the end of its stderr.
        """
        if self._process is not None:
            self._process.wait()
            raise self._died()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        died = self._died() if self._process and self._process.poll() is not None else None
        self.close()
        if died and error:
            error.add_note(str(died))  # what made the requests fail
        elif died:
            raise died

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Spinning threads on a busy machine cost most of the speed.
        environment = child_environment(MODEL_LIBRARIES) | {"OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(  # noqa: S603 - this interpreter, our file
            # -P: the file's directory must not become a place to import from.
            [sys.executable, "-P", str(_CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the parent, which then closes the child
        )
        self._stderr.clear()
        self._drain = threading.Thread(target=self._keep_stderr, args=(process,), daemon=True)
        self._drain.start()
        return process

    def _keep_stderr(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr
        with process.stderr as lines:
            for line in lines:
                self._stderr.append(line.decode(errors="replace").rstrip())

    def _send_settings(self, process: subprocess.Popen[bytes], weights: Path) -> None:
        settings = {
            "weights": str(weights),
            "model": self.model,
            "port": self._port,
            "api_key": self.api_key.get_secret_value(),
            "slots": self.slots,
            "threads": max(1, _usable_cpus() - 1),
            "http_threads": _HTTP_THREADS,
        }
        assert process.stdin
        try:
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error

    def _wait_for_address(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout
        watchdog = threading.Timer(_START_TIMEOUT_S, process.kill)
        watchdog.start()
        try:
            line = process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise self._died()
        return str(json.loads(line)["address"]).rstrip("/")

    def _wait_for_health(self, endpoint: str) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not _is_healthy(endpoint):
            if time.monotonic() > deadline:
                raise LocalModelError(f"the local model did not answer within {_START_TIMEOUT_S:.0f} s")
            time.sleep(0.05)

    def _died(self) -> LocalModelError:
        assert self._process
        code = self._process.wait()
        if self._drain:
            self._drain.join()
        tail = "\n".join(self._stderr) or "it left no message"
        hint = f"is port {self._port} free?" if self._port else None
        return LocalModelError(f"the process of the local model ended with status {code}:\n{tail}", hint=hint)


def serve(*, say: Callable[[str], object], port: int = 0, slots: int = 8) -> None:
    """Run the local model in the foreground until Ctrl-C.

    Its key comes from ``MISTILL_LOCAL_API_KEY``; without that a random one is made and said once.

    Args:
        say: called with each line for the user.
        port: 0 takes a free one.
        slots: answers generated at the same time.

    Raises:
        LocalModelError: it could not start, or its process ended.
    """
    given = os.environ.get(API_KEY_ENV_VAR)
    try:
        with LocalModel(port=port, slots=slots, api_key=given, say=say) as local:
            say(f"{local.model} (the demo model, a toy in quality) answers at {local.endpoint}")
            say(f"key: {f'as given in {API_KEY_ENV_VAR}' if given else local.api_key.get_secret_value()}")
            say("Ctrl-C ends it")
            local.wait()
    except KeyboardInterrupt:
        return


def _usable_cpus() -> int:
    """CPUs this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _is_healthy(endpoint: str) -> bool:
    # http.client, since it asks no proxy about 127.0.0.1.
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
