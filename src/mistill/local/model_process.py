"""The child process of the local model: one llama.cpp server on 127.0.0.1, alive as long as its parent wants it.

Run as a file, never imported by mistill. The first line on stdin is its settings as JSON, so the key is neither in its
arguments nor in its environment. The one line on stdout is the address it answers on. It serves until stdin ends.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import time
from typing import Any

CONTEXT_TOKENS = 2048  # per slot, prompt and answer together; 23 kB of memory each
MAX_ANSWER_TOKENS = 512  # where the request sets none: a model this small may never stop by itself
_LOG_ERRORS_ONLY = 1


def main() -> None:
    # What native code prints goes to stderr, so that stdout carries the address and nothing else.
    answer_fd = os.dup(1)
    os.dup2(2, 1)
    settings = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_with_parent, args=(os.getppid(),), daemon=True).start()
    try:
        server = _start_server(settings)
    except RuntimeError as error:  # llama.cpp has said why on stderr
        print(error, file=sys.stderr, flush=True)  # noqa: T201 - the parent shows it to the user
        os._exit(1)
    with os.fdopen(answer_fd, "w") as answer:
        answer.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdin.buffer.read()
    # Not sys.exit: the server's destructor can deadlock, and there is nothing to save.
    os._exit(0)


def _start_server(settings: dict[str, Any]) -> Any:
    xllamacpp: Any = importlib.import_module("xllamacpp")  # it has no types
    params = xllamacpp.CommonParams()
    params.model.path = settings["weights"]
    params.model_alias = {settings["model"]}
    params.hostnames = ["127.0.0.1"]
    params.port = settings["port"]
    params.api_keys = [settings["api_key"]]
    params.n_parallel = settings["slots"]
    params.n_ctx = settings["slots"] * CONTEXT_TOKENS
    params.n_predict = MAX_ANSWER_TOKENS
    params.cpuparams.n_threads = settings["threads"]
    params.cpuparams_batch.n_threads = settings["threads"]
    # A waiting keep-alive connection holds one of these threads: fewer than connections would starve some clients.
    params.n_threads_http = settings["http_threads"]
    params.cache_ram_mib = 0  # the default keeps up to 8 GB of finished prompts
    params.verbosity = _LOG_ERRORS_ONLY
    params.warmup = False
    params.ui = False
    params.endpoint_slots = False
    return xllamacpp.Server(params)


def _exit_with_parent(parent_pid: int) -> None:
    """End this process when it is orphaned.

    The end of stdin says so too, unless a process forked from the parent still holds the other end. Not
    PR_SET_PDEATHSIG: that fires when the parent's *thread* ends, and a short-lived one may well have started the model.
    """
    while os.getppid() == parent_pid:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
