"""The scripts in examples/ do what they say, against the simulator."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.test_attachments import png

from mistill.simulator import Simulator

EXAMPLES = Path(__file__).parents[1] / "examples"


def lines_of_code(script: Path) -> int:
    """But for blank ones, comments and docstrings."""
    text = re.sub(r'""".*?"""', "", script.read_text("utf-8"), flags=re.DOTALL)
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


RunExample = Callable[..., tuple[str, int]]


@pytest.fixture
def run_example(
    simulator: Simulator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> RunExample:
    """Runs a script, with the simulator as its endpoint: what it prints, and how many requests it sends."""

    def run(name: str, first: Path, second: Path, *others: str) -> tuple[str, int]:
        script = EXAMPLES / name
        lines = lines_of_code(script)
        assert f" {lines} lines." in script.read_text("utf-8").partition("\n")[0]
        readme = (EXAMPLES.parent / "README.md").read_text("utf-8")
        assert f"[`{name}`](examples/{name}) | {lines} |" in readme
        monkeypatch.setattr(sys, "argv", [str(script), str(first), str(second), simulator.url, *others])
        before = len(simulator.requests)
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out, len(simulator.requests) - before

    return run


def test_images_of_a_folder_are_captioned(tmp_path: Path, run_example: RunExample) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("dune", "lake", "pier"):
        (photos / f"{name}.png").write_bytes(png(len(name)))
    out = tmp_path / "captions.jsonl"
    said, _ = run_example("caption_images.py", photos, out)
    assert "3 rows: 3 to ask" in said
    assert "3 rows: 3 answered" in said
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["name"] for record in records] == ["dune.png", "lake.png", "pier.png"]
    assert all(isinstance(record["tags"], list) and "caption" in record for record in records)


def test_messy_mails_become_a_table(tmp_path: Path, run_example: RunExample) -> None:
    parquet = library("pyarrow.parquet")
    library("pandas")
    mails: list[dict[str, Any]] = [
        {"id": 1, "from": "ann@example.com", "body": "Hi!! my order #4711 never came :( \ud83d", "at": None},
        {"id": 2, "from": None, "body": "Is the blue one still in stock?", "at": "2026-11-26"},
        {"id": 3, "from": None, "body": None},
        {"id": 4, "from": None, "body": "Is the blue one still in stock?", "at": "2026-11-27"},
    ]
    source, out = tmp_path / "mails.jsonl", tmp_path / "tickets.parquet"
    source.write_text("\ufeff" + "\n\n".join(json.dumps(mail) for mail in mails), "utf-8")
    said, sent = run_example("sort_mails.py", source, out)
    assert sent == 3, "equal mails are asked once"
    assert "4 rows: 4 answered" in said
    assert "category" in said.rpartition("ledger: ")[2]
    table = parquet.read_table(out)
    assert table["id"].to_pylist() == [1, 2, 3, 4]
    assert [str(table.schema.field(name).type) for name in ("category", "urgent")] == ["string", "bool"]
    assert table["category"][1] == table["category"][3]
    said, sent = run_example("sort_mails.py", source, out)
    assert (sent, "sent now: 0 requests" in said) == (0, True)


def test_mails_from_a_spreadsheet_are_told_how_they_are_written(
    tmp_path: Path, run_example: RunExample
) -> None:
    parquet = library("pyarrow.parquet")
    library("pandas")
    source, out = tmp_path / "mails.csv", tmp_path / "tickets.parquet"
    source.write_bytes('from;body\r\nänn@example.com;"Größe – 42; ""blau""?\r\nDanke"\r\n'.encode("cp1252"))
    said, _ = run_example("sort_mails.py", source, out, "cp1252", ";")
    assert "1 row: 1 answered" in said
    assert parquet.read_table(out)["body"].to_pylist() == ['Größe – 42; "blau"?\r\nDanke']


def test_a_dataset_gets_labels_after_a_sample(tmp_path: Path, run_example: RunExample) -> None:
    library("datasets")
    folder, ledger = tmp_path / "reviews", tmp_path / "labels.ledger"
    folder.mkdir()
    rows = [json.dumps({"text": f"It broke after {number} days"}) for number in range(40)]
    (folder / "reviews.jsonl").write_text("\n".join(rows))
    said, sent = run_example("label_dataset.py", folder, ledger)
    assert sent == 40, "those of the sample are not asked again"
    assert "the 30 rows left, forecast from 10 answered" in said
    assert "num_rows: 40" in said
    assert "'sentiment'" in said
    said, sent = run_example("label_dataset.py", folder, ledger)
    assert sent == 0
    assert "forecast" not in said, "nothing is left"


def test_topics_become_a_file_for_fine_tuning(tmp_path: Path, run_example: RunExample) -> None:
    topics, out = tmp_path / "topics.jsonl", tmp_path / "train.jsonl"
    topics.write_text("".join(json.dumps({"topic": name}) + "\n" for name in ("tides", "sourdough", "chess")))
    said, sent = run_example("make_training_file.py", topics, out)
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert f"{len(lines)} conversations" in said
    graded = [json.loads(line) for line in Path(f"{out}.grades.jsonl").read_text().splitlines()]
    assert sent == 3 + 2 * len(graded), "topics, their instructions, their answers"
    kept = [record for record in graded if record["score"] >= 3]
    assert 0 < len(kept) < len(graded), "the filter has something to do"
    assert [[turn["role"] for turn in line["messages"]] for line in lines] == [["user", "assistant"]] * len(
        kept
    )
    assert [line["messages"][0]["content"] for line in lines] == [record["instruction"] for record in kept]
    assert run_example("make_training_file.py", topics, out)[1] == 0


def test_near_duplicates_are_dropped(tmp_path: Path, run_example: RunExample) -> None:
    parquet = library("pyarrow.parquet")
    library("numpy")
    texts, out = tmp_path / "texts.jsonl", tmp_path / "unique.parquet"
    rows = [json.dumps({"id": number, "text": f"text {number % 5}"}) for number in range(8)]
    texts.write_text("\n".join(rows))
    said, sent = run_example("drop_near_duplicates.py", texts, out)
    assert sent == 1, "many texts go in one request"
    assert "5 of 8 texts are kept\nrow 5 is like row 0 (1.00)" in said
    table = parquet.read_table(out)
    assert table["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert str(table.schema.field("embedding").type.value_type) == "float"
    assert run_example("drop_near_duplicates.py", texts, out)[1] == 0
