"""Runs whose input and output are at Azure, by its stand-in Azurite: ``npm install -g azurite``."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import Place, echoes

from mistill.datasets.places import place_of
from mistill.errors import InputError
from mistill.simulator import Simulator

# The account that every Azurite has: https://github.com/Azure/Azurite#default-storage-account
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@pytest.fixture
def azure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """adlfs's file system, with an empty container ``bucket``."""
    adlfs, program = library("adlfs"), shutil.which("azurite-blob")
    if program is None:
        pytest.skip("needs Azurite: npm install -g azurite")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "--blobPort", str(port), "--inMemoryPersistence", "--skipApiVersionCheck", "--silent"]
    server = subprocess.Popen([*command, "--disableTelemetry"], cwd=tmp_path, stdout=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}/devstoreaccount1"
    told = f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={_KEY};BlobEndpoint={endpoint};"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", told)
    monkeypatch.setenv("MISTILL_STATE_DIR", str(tmp_path / "state"))
    adlfs.AzureBlobFileSystem.clear_instance_cache()
    try:
        given_up_s = time.monotonic() + 60
        while time.monotonic() < given_up_s and server.poll() is None:
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        azure = adlfs.AzureBlobFileSystem(connection_string=told, skip_instance_cache=True)
        azure.mkdir("bucket")
        yield azure
    finally:
        server.terminate()
        server.wait(30)


def test_a_run_from_azure_to_azure_goes_on_where_it_was(
    place: Place, azure: Any, simulator: Simulator, tmp_path: Path
) -> None:
    texts = ["one", "two", "three"]
    for number, part in enumerate((texts[:2], texts[2:])):
        data = "".join(json.dumps({"text": text}) + "\n" for text in part)
        azure.pipe_file(f"bucket/in/{number}.jsonl", data.encode())
    out = "az://bucket/out/answers.jsonl"
    run = place.run("az://bucket/in/0.jsonl", out=out)
    run.start()
    assert run.ledger_path == tmp_path / "state/ledgers/az/bucket/out/answers.jsonl.ledger"
    place.run("az://bucket/in/*.jsonl", out="abfs://bucket/out/answers.jsonl").start()
    assert len(simulator.requests) == 3
    azure.invalidate_cache()
    lines = azure.cat_file("bucket/out/answers.jsonl").splitlines()
    assert [json.loads(line)["generation"] for line in lines] == echoes(texts)

    with pytest.raises(InputError, match="is an input"):
        place.run(
            "az://bucket/in/0.jsonl", out="abfs://bucket@devstoreaccount1.dfs.core.windows.net/in/0.jsonl"
        )
    with pytest.raises(InputError, match="there is no bucket or container other"):
        place.run("az://bucket/in/0.jsonl", out="az://other/answers.jsonl")


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # adlfs's own
def test_an_output_at_azure_is_whole_or_not_there(azure: Any) -> None:
    target, data = place_of("az://bucket/big.bin"), b"x" * (9 << 20)
    with suppress(KeyError), target.writing() as output:
        output.write(data)
        raise KeyError
    assert not target.holds_something()
    with target.writing() as output:
        output.write(data)
    azure.invalidate_cache()
    assert azure.cat_file("bucket/big.bin") == data
