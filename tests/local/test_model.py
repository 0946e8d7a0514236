"""The demo model as a process: what it answers, who may ask, and when it ends. Never what it says."""

from __future__ import annotations

import http.client
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.local.conftest import needs_xllamacpp

from mistill.errors import InputError
from mistill.extras import install_command
from mistill.llms import MistralLLM
from mistill.local import LocalModel, LocalModelError

Post = Callable[..., tuple[int, str]]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc and pidfd")


def chat(text: str, **fields: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


def test_answers_a_chat(post: Post, local: LocalModel) -> None:
    status, text = post(chat("Hello", model=local.model))
    answer = json.loads(text)
    assert status == 200
    assert answer["model"] == local.model == "smollm2-135m-instruct"
    assert isinstance(answer["choices"][0]["message"]["content"], str)
    assert 0 < answer["usage"]["completion_tokens"] <= 8


@pytest.mark.parametrize("key", [None, "wrong"])
def test_without_its_key_nobody_is_answered(post: Post, key: str | None) -> None:
    assert post(chat("Hello"), key=key)[0] == 401


def test_gives_as_many_answers_as_it_has_slots_and_no_more(post: Post, local: LocalModel) -> None:
    status, text = post(chat("Hello", n=local.slots, max_tokens=2))
    assert status == 200
    assert len(json.loads(text)["choices"]) == local.slots
    assert post(chat("Hello", n=local.slots + 1))[0] == 400


def test_the_same_seed_gives_the_same_answer(post: Post) -> None:
    contents = {
        json.loads(post(chat("Tell me a story", seed=7, temperature=1.0))[1])["choices"][0]["message"][
            "content"
        ]
        for _ in range(2)
    }
    assert len(contents) == 1


def test_streams_with_usage_when_asked_for_it(post: Post) -> None:
    status, text = post(chat("Hello", stream=True, stream_options={"include_usage": True}))
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert status == 200
    assert lines[-1] == "[DONE]"
    assert json.loads(lines[-2])["usage"]["completion_tokens"] > 0


def test_listens_on_this_machine_only(local: LocalModel) -> None:
    assert local.endpoint.startswith("http://127.0.0.1:")


@on_linux
def test_the_key_is_in_no_repr_argument_or_environment(local: LocalModel) -> None:
    key = local.api_key.get_secret_value()
    process = Path(f"/proc/{local.pid}")
    shown = [
        repr(local),
        str(vars(local)),
        *((process / name).read_text() for name in ("cmdline", "environ")),
    ]
    assert len(key) >= 32
    assert not [text for text in shown if key in text]
    assert "OMP_WAIT_POLICY=PASSIVE" in shown[-1]


def test_an_endpoint_before_the_start_is_an_error() -> None:
    with pytest.raises(LocalModelError, match="not running"):
        _ = LocalModel().endpoint


@pytest.mark.parametrize(("name", "value"), [("slots", 0), ("port", -1), ("port", 65536)])
def test_impossible_settings_are_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=f"{name} must be"):
        LocalModel(**{name: value})  # type: ignore[arg-type]  which of them is for the test to say


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LocalModelError, match=re.escape(install_command("local"))):
        LocalModel().start()


def test_a_port_in_use_is_reported(local: LocalModel) -> None:
    port = int(local.endpoint.rpartition(":")[2])
    with pytest.raises(LocalModelError, match=f"is port {port} free"):
        LocalModel(slots=1, port=port).start()


@needs_xllamacpp
def test_a_process_that_died_is_reported() -> None:
    doomed = LocalModel(slots=1)
    doomed.start()
    assert doomed.pid
    os.kill(doomed.pid, signal.SIGKILL)
    with pytest.raises(LocalModelError, match="status -9"):
        doomed.wait()
    with pytest.raises(KeyError) as caught, doomed:
        raise KeyError
    assert "status -9" in caught.value.__notes__[0]


# With a second process forked from it, which keeps every pipe to the child open.
HOLDER = """
import os, signal
from mistill.local import LocalModel
local = LocalModel(slots=1)
local.start()
fork = os.fork()
if fork == 0:
    signal.pause()
print(local.pid, fork, flush=True)
signal.pause()
"""


@on_linux
@needs_xllamacpp
@pytest.mark.parametrize("kill_fork_first", [True, False])
def test_the_child_ends_when_its_parent_is_killed(kill_fork_first: bool) -> None:
    secrets = {"MISTRAL_API_KEY": "a-secret-of-mine", "GITHUB_TOKEN": "a-secret-of-mine"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True, env=os.environ | secrets
    )
    assert holder.stdout
    child, fork = map(int, holder.stdout.readline().split())
    assert b"a-secret-of-mine" not in Path(f"/proc/{child}/environ").read_bytes()
    watched = os.pidfd_open(child)
    try:
        if kill_fork_first:
            os.kill(fork, signal.SIGKILL)
        holder.kill()
        holder.communicate(timeout=10) if kill_fork_first else holder.wait(10)
        ended, _, _ = select.select([watched], [], [], 10)
        assert ended
    finally:
        os.close(watched)
        if not kill_fork_first:
            os.kill(fork, signal.SIGKILL)
            holder.stdout.close()


SERVE = "from mistill.local import serve; serve(say=lambda line: print(line, flush=True), slots=1)"


@on_linux
@needs_xllamacpp
@pytest.mark.parametrize("given_key", [None, "a key of the user's own"])
def test_serve_says_where_and_ends_cleanly_at_ctrl_c(given_key: str | None) -> None:
    environment = os.environ | ({"MISTILL_LOCAL_API_KEY": given_key} if given_key else {})
    server = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert server.stdout
    where, key, _ = (server.stdout.readline() for _ in range(3))
    endpoint = where.split()[-1]
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
    secret = given_key or key.removeprefix("key: ").strip()
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {secret}"})
    status = connection.getresponse().status
    connection.close()
    server.send_signal(signal.SIGINT)
    _, stderr = server.communicate(timeout=10)
    assert status == 200
    assert (server.returncode, stderr) == (0, "")
    assert (given_key is None) == (len(secret) > 30 and secret in key)


def test_a_model_class_uses_it_like_any_other_server(local: LocalModel) -> None:
    llm = MistralLLM(model=local.model, endpoint=local.endpoint, api_key=local.api_key, dialect="local")
    outputs = llm.generate(["Hello", "Good day"], num_generations=2, max_new_tokens=4, random_seed=1)
    assert [[type(text) for text in texts] for texts in outputs] == [[str, str]] * 2


def test_a_model_class_holds_it_to_a_schema(local: LocalModel) -> None:
    llm = MistralLLM(model=local.model, endpoint=local.endpoint, api_key=local.api_key, dialect="local")
    schema = {"type": "integer", "minimum": 10, "maximum": 12}
    [[completion]] = llm.complete(["How many?"], structured_output={"schema": schema, "max_retries": 0})
    assert completion.value in (10, 11, 12)


def test_a_model_class_refuses_what_it_cannot_do(local: LocalModel) -> None:
    llm = MistralLLM(model=local.model, endpoint=local.endpoint, api_key=local.api_key, dialect="local")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    with pytest.raises(InputError, match="knows no tools"):
        llm.generate(["Hello"], tools=[tool])
    image = {"type": "image_url", "image_url": "https://example.com/a.png"}
    with pytest.raises(InputError, match="reads text only"):
        llm.generate([[{"role": "user", "content": [image]}]])
