"""What a run and an export may write over: never an input, a ledger, or what stands beside one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import Place, echoes

from mistill.errors import InputError, LedgerError, LedgerInUse
from mistill.runs.export import export_run
from mistill.simulator import Simulator

COMPANIONS = ["-wal", "-shm", "-journal", ".lock"]


@pytest.fixture
def finished(place: Place) -> Place:
    place.write(["a", "b"])
    place.run().start()
    return place


def files_in(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("out", "ledger"),
    [
        ("one.jsonl", "one.jsonl"),
        *((f"one.ledger{suffix}", "one.ledger") for suffix in COMPANIONS),
        ("sub/../one.jsonl", "one.jsonl"),
        ("other.jsonl", "in.jsonl"),
        ("in.jsonl", "one.ledger"),
        ("hard.jsonl", "one.ledger"),
        ("soft.jsonl", "one.ledger"),
        ("new.jsonl", "hard.jsonl"),
        ("new.jsonl", "soft.jsonl"),
        ("out.jsonl.ledger", "one.ledger"),
        ("out.jsonl.ledger-wal", "one.ledger"),
        ("link-to-ledger", "one.ledger"),
        ("new.jsonl", "out.jsonl.ledger-wal"),
        ("new.jsonl", "out.jsonl.ledger.lock"),
    ],
)
@pytest.mark.parametrize("fresh", [False, True])
def test_a_run_whose_files_would_harm_one_another_sends_nothing(
    finished: Place, simulator: Simulator, out: str, ledger: str, fresh: bool
) -> None:
    place, folder = finished, finished.out.parent
    (folder / "sub").mkdir()
    (folder / "hard.jsonl").hardlink_to(place.input)
    (folder / "soft.jsonl").symlink_to(place.input)
    (folder / "link-to-ledger").symlink_to(place.ledger)
    sent, before = len(simulator.requests), files_in(folder)
    with pytest.raises((InputError, LedgerError), match=r"replace it|cannot be there"):
        place.run(out=folder / out, output_format="jsonl", ledger=folder / ledger, fresh=fresh).start()
    assert len(simulator.requests) == sent
    assert files_in(folder) == before


@pytest.mark.parametrize("suffix", COMPANIONS)
def test_an_input_beside_which_a_ledger_would_write_is_safe(
    place: Place, simulator: Simulator, suffix: str
) -> None:
    place.write(["a"])
    source = place.input.rename(place.input.with_name(f"one.ledger{suffix}"))
    before = source.read_bytes()
    with pytest.raises(InputError, match="is an input of this run"):
        place.run(source, input_format="jsonl", ledger=place.input.with_name("one.ledger"))
    assert source.read_bytes() == before


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "to",
    ["in.jsonl", "hard.jsonl", "soft.jsonl", "out.jsonl.ledger", "out.jsonl.ledger.lock", "link", "other.ledger",
     "other.ledger-wal", "out.jsonl.ledger-journal"],
)  # fmt: skip
def test_an_export_never_replaces_an_input_or_a_ledger(finished: Place, to: str, overwrite: bool) -> None:
    place, folder = finished, finished.out.parent
    (folder / "hard.jsonl").hardlink_to(place.input)
    (folder / "soft.jsonl").symlink_to(place.input)
    (folder / "link").symlink_to(place.ledger)
    place.run(out=folder / "second.jsonl", ledger=folder / "other.ledger").start()
    before = files_in(folder)
    with pytest.raises(InputError, match="replace it"):
        export_run(place.out, folder / to, format="jsonl", overwrite=overwrite)
    assert files_in(folder) == before


def test_an_export_replaces_a_file_only_if_one_says_so(finished: Place) -> None:
    place, to = finished, finished.out.with_name("notes.jsonl")
    to.write_text("dear to me\n")
    with pytest.raises(InputError, match=r"notes\.jsonl exists") as refused:
        export_run(place.out, to)
    assert refused.value.hint is not None
    assert "overwrite=True" in refused.value.hint
    assert to.read_text() == "dear to me\n"
    assert export_run(place.out, to, overwrite=True).records == 2
    assert to.read_bytes() == place.out.read_bytes()


@pytest.mark.parametrize("name", ["out.jsonl", "./out.jsonl", "hard-out.jsonl", "empty.jsonl"])
def test_the_runs_own_output_and_an_empty_file_are_written_anew(finished: Place, name: str) -> None:
    place, folder = finished, finished.out.parent
    (folder / "hard-out.jsonl").hardlink_to(place.out)
    (folder / "empty.jsonl").touch()
    assert export_run(place.out, os.path.join(folder, name)).records == 2  # noqa: PTH118 - with the ./ in it
    assert len((folder / name).read_text().splitlines()) == 2


def test_an_output_goes_to_a_device_at_any_time(finished: Place) -> None:
    assert export_run(finished.out, os.devnull, format="jsonl").records == 2


def test_inputs_are_known_when_the_run_was_started_elsewhere(
    finished: Place, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    monkeypatch.chdir(finished.input.parent)
    finished.run("in.jsonl").start()
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(InputError, match="is an input of this run"):
        export_run(finished.out, finished.input, overwrite=True)


@pytest.mark.parametrize("settings", [{}, {"fresh": True}])
def test_a_file_at_the_place_of_the_lock_is_left_as_it_is(place: Place, settings: dict[str, Any]) -> None:
    place.write(["a"])
    lock = place.ledger.with_name(place.ledger.name + ".lock")
    lock.write_text("these are notes of somebody, and no lock at all\n")
    with pytest.raises(LedgerError, match="is no lock of ours"):
        place.run(**settings).start()
    assert lock.read_text().startswith("these are notes")


def test_a_log_without_its_ledger_is_kept(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    log = place.ledger.with_name(place.ledger.name + "-wal")
    log.write_bytes(b"answers that were paid for")
    with pytest.raises(LedgerError, match=r"the ledger .* is not there"):
        place.run().start()
    assert not simulator.requests
    place.run(fresh=True).start()
    assert place.answers() == echoes(["a"])
    (kept,) = place.out.parent.glob("*.bak-*-wal")
    assert kept.read_bytes() == b"answers that were paid for"


@pytest.mark.parametrize("ledgers", [("a.ledger", "b.ledger"), (None, "b.ledger"), ("a.ledger", None)])
def test_two_runs_do_not_write_one_output_at_a_time(
    place: Place, ledgers: tuple[str | None, str | None]
) -> None:
    place.write(["a", "b"])
    first, second = (
        place.run(ledger=None if name is None else place.out.with_name(name)) for name in ledgers
    )
    asking = iter(first)
    next(asking)
    with pytest.raises(LedgerInUse, match=f"in use by process {os.getpid()}"):
        second.start()
    assert not second.ledger_path.exists()
    assert len(list(asking)) == 1
    with pytest.raises(InputError, match=r"out\.jsonl exists, and .* does not"):
        second.start()
    assert not list(place.out.parent.glob("*.lock"))
    assert place.run(ledger=first.ledger_path).start().sent == 0
