"""Near duplicates: exact, in blocks, the first of each cluster kept, and said which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libraries import library

from mistill import dedupe
from mistill.cli import main
from mistill.curation import near_duplicates
from mistill.errors import InputError

numpy = library("numpy")


def rows_of(vectors: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"t{number}", "embedding": vector} for number, vector in enumerate(vectors)]


def one_by_one(vectors: list[list[float]], threshold: float) -> dict[int, int]:
    """The rule, as plainly as it can be written."""
    units = [numpy.asarray(vector) / (numpy.linalg.norm(vector) or 1) for vector in vectors]
    kept: list[int] = []
    dropped: dict[int, int] = {}
    for row, unit in enumerate(units):
        near = [(float(unit @ units[other]), other) for other in kept]
        if any(similarity >= threshold for similarity, _ in near):
            dropped[row] = max(near, key=lambda one: one[0])[1]
        else:
            kept.append(row)
    return dropped


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), block=st.sampled_from([1, 3, 16, 2048]))
def test_in_blocks_as_one_by_one(seed: int, count: int, block: int) -> None:
    random = numpy.random.default_rng(seed)
    centers = random.normal(size=(5, 6))
    vectors = (centers[random.integers(0, 5, count)] + 0.25 * random.normal(size=(count, 6))).tolist()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_BLOCK_ROWS", block)
        result = dedupe(rows_of(vectors), threshold=0.9)
    expected = one_by_one(vectors, 0.9)
    assert [found.row for found in result.dropped] == list(expected)
    assert all(found.similarity >= 0.9 for found in result.dropped)
    kept = set(range(count)) - set(expected)
    assert {found.kept for found in result.dropped} <= kept


def test_the_first_is_kept_and_the_rest_say_which_it_is(tmp_path: Path) -> None:
    vectors = [[1, 0], [0, 1], [2, 0.01], None, [0, 0], [0, 3], [0, 0]]
    result = dedupe(rows_of(vectors), tmp_path / "out.jsonl", threshold=0.99)
    assert [(found.row, found.kept) for found in result.dropped] == [(2, 0), (5, 1)]
    assert (result.rows, result.kept, result.without_vector) == (7, 5, 1)
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["t0", "t1", "t3", "t4", "t6"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_marked_rows_are_all_there(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        library("pyarrow")
    out = tmp_path / f"out.{suffix}"
    dedupe(rows_of([[1, 0], [1, 0], [0, 1]]), out, mark=True)
    from mistill.datasets.sources import open_source

    marks = [row.record["duplicate_of"] for row in open_source(out)]
    assert [mark if mark is None or mark == "" else int(mark) for mark in marks] in (
        [None, 0, None],
        ["", 0, ""],
    )


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (rows_of([[1, 2], [1, 2, 3]]), "row 1: 'embedding' has 3 numbers, where others have 2"),
        ([{"embeding": [1]}], "no column 'embedding'.*did you mean 'embeding'"),
        (rows_of([[1], "x"]), "row 1 of .*'embedding' is no vector"),
        (rows_of([[]]), "an empty vector"),
    ],
)
def test_what_is_no_vector_names_its_row(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dedupe(rows)


def test_a_threshold_is_a_similarity() -> None:
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(InputError, match="threshold"):
            dedupe([], threshold=threshold)


def test_nothing_dear_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"embedding": [1]}\n')
    Path("out.jsonl").write_text("dear\n")
    with pytest.raises(InputError, match="is the input"):
        dedupe("in.jsonl", "in.jsonl", overwrite=True)
    with pytest.raises(InputError, match="exists"):
        dedupe("in.jsonl", "out.jsonl")
    dedupe("in.jsonl", "out.jsonl", overwrite=True)
    assert Path("out.jsonl").read_text() == '{"embedding": [1]}\n'


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in rows_of([[1, 0], [1, 0.001], None]))
    )
    assert main(["dedupe", "in.jsonl", "--to", "out.jsonl"]) == 0
    told = capsys.readouterr().err
    assert "3 rows: 2 kept, 1 near duplicate dropped\nwithout a vector, and kept: 1 row\n" in told
    assert "row 1 is like row 0 (1.000)" in told
    assert main(["dedupe", "in.jsonl", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["dropped"] == [{"row": 1, "kept": 0, "similarity": 1.0}]
