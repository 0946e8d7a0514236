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
from mistill.errors import InputError

numpy = library("numpy")


def rows_of(vectors: list[Any]) -> list[dict[str, Any]]:
    return [{"text": f"t{number}", "embedding": vector} for number, vector in enumerate(vectors)]


def one_by_one(vectors: Any, threshold: float) -> dict[int, int]:
    """The rule, as plainly as it can be written; of whole numbers, whose products and squares are exact."""
    squares = (vectors**2).sum(axis=1)
    kept: list[int] = []
    dropped: dict[int, int] = {}
    for row, vector in enumerate(vectors):
        near = vectors[kept] @ vector / numpy.sqrt(numpy.maximum(squares[kept] * squares[row], 1))
        if kept and near.max() >= threshold * (1 - 1e-12):
            dropped[row] = kept[int(near.argmax())]
        else:
            kept.append(row)
    return dropped


@settings(max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(0, 2200),
    length=st.sampled_from([2, 5]),
    size=st.sampled_from([3, 40]),
    threshold=st.sampled_from([0.5, 0.97, 1]),
    exponent=st.sampled_from([-990, 0, 990]),
)
def test_the_nearest_kept_row_before_it_stands_for_a_row(
    seed: int, count: int, length: int, size: int, threshold: float, exponent: int
) -> None:
    """Some blocks of rows, as if they were taken one by one; whole numbers have many that are equally near."""
    vectors = numpy.random.default_rng(seed).integers(-size, size + 1, (count, length)).astype(float)
    result = dedupe(rows_of((vectors * 2.0**exponent).tolist()), threshold=threshold)
    assert {found.row: found.kept for found in result.dropped} == one_by_one(vectors, threshold)
    assert all(threshold * (1 - 1e-12) <= found.similarity <= 1 for found in result.dropped)


@pytest.mark.parametrize("factor", [1, 3, 1e200, 1e-200, 5e-310])
def test_copies_are_alike_at_any_threshold_and_of_any_length(factor: float) -> None:
    vectors = numpy.random.default_rng(1).random((100, 64))
    both = numpy.stack([vectors, vectors * factor], axis=1).reshape(200, 64).tolist()
    result = dedupe(rows_of(both), threshold=1)
    if factor > 1e-300:  # else digits are lost, before we see them
        assert [(found.row, found.kept) for found in result.dropped] == [(n + 1, n) for n in range(0, 200, 2)]
    else:
        assert len(dedupe(rows_of(both), threshold=0.9999).dropped) == 100


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
        ([{"embeding": [1]}], "no column 'embedding'.*vectors stand in column='embeding'"),
        ([{"error": None, "n": [], "v": [0.5], "w": [1]}], "no column 'embedding'.*column='v', 'w'"),
        ([{"embeding": None}], "no column 'embedding'.*did you mean 'embeding'"),
        (rows_of([[1], "x"]), "row 1 of .*'embedding' is no vector"),
        (rows_of([[]]), "an empty vector"),
    ],
)
def test_what_is_no_vector_names_its_row(rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dedupe(rows)


def test_a_threshold_is_a_similarity() -> None:
    not_numbers: list[Any] = ["0.9", None, True, [0.9]]
    for threshold in (0, 1.5, float("nan"), *not_numbers):
        with pytest.raises(InputError, match="threshold"):
            dedupe([], threshold=threshold)


def test_nothing_dear_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.jsonl").write_text('{"embedding": [1]}\n')
    Path("out.jsonl").write_text("dear\n")
    with pytest.raises(InputError, match="is an input itself"):
        dedupe("in.jsonl", "in.jsonl", overwrite=True)
    with pytest.raises(InputError, match="exists"):
        dedupe("in.jsonl", "out.jsonl")
    dedupe("in.jsonl", "out.jsonl", overwrite=True)
    assert Path("out.jsonl").read_text() == '{"embedding": [1]}\n'


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal", ".lock"])
@pytest.mark.parametrize("name", ["run.ledger", "link"])
def test_no_ledger_is_replaced_nor_what_belongs_to_one(tmp_path: Path, name: str, beside: str) -> None:
    (tmp_path / f"run.ledger{beside}").write_bytes(b"answers that were paid for")
    (tmp_path / "run.ledger").write_bytes(b"SQLite format 3\0 and all of them")
    if name == "link":
        (tmp_path / f"link{beside}").symlink_to(tmp_path / f"run.ledger{beside}")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="and the output would replace it"):
        dedupe(rows_of([[1]]), tmp_path / f"{name}{beside}", overwrite=True, output_format="jsonl")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("setting", "flags"),
    [
        ({"mark": True}, ["--mark"]),
        ({"overwrite": True}, ["--overwrite"]),
        ({"output_format": "csv"}, ["--output-format", "csv"]),
        ({"csv_dialect": "excel"}, ["--csv-dialect", "excel"]),
    ],
)
def test_what_is_about_the_output_is_refused_without_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], setting: dict[str, Any], flags: list[str]
) -> None:
    with pytest.raises(InputError, match="is about the file that is written, and none is"):
        dedupe(rows_of([[1]]), **setting)
    (tmp_path / "in.jsonl").write_text('{"embedding": [1]}\n')
    assert main(["dedupe", str(tmp_path / "in.jsonl"), *flags]) == 2
    told = capsys.readouterr().err
    assert f"{' '.join(flags)} is about the file that is written" in told
    assert "--to unique.jsonl" in told


def test_a_row_that_is_none_of_a_run_is_not_written_with_null_in_it() -> None:
    with pytest.raises(InputError, match="row 1 of the list: column 'x' holds what JSON cannot carry"):
        dedupe([{"embedding": [1]}, {"embedding": [1], "x": object()}])


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
    assert main(["dedupe", "in.jsonl"]) == 0
    assert "nothing was written" in capsys.readouterr().err
    assert main(["dedupe", "in.jsonl", "--out", "out.jsonl"]) == 2
    assert "Did you mean '--to'?" in capsys.readouterr().err


def test_marks_stand_once_and_only_marks_are_replaced(tmp_path: Path) -> None:
    vectors = [[1, 0], [1, 0], [0, 1]]
    dedupe(rows_of(vectors), tmp_path / "once.jsonl", mark=True)
    dedupe(tmp_path / "once.jsonl", tmp_path / "twice.jsonl", mark=True)
    assert (tmp_path / "twice.jsonl").read_text() == (tmp_path / "once.jsonl").read_text()
    assert (tmp_path / "twice.jsonl").read_text().count("duplicate_of") == 3
    with pytest.raises(InputError, match=r"row 1 of .*it has a column 'similarity', and mark=True adds one"):
        dedupe([{"embedding": [1]}, {"embedding": [1], "similarity": "how"}], tmp_path / "a.jsonl", mark=True)
    assert not (tmp_path / "a.jsonl").exists()


def test_vectors_may_be_the_json_text_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text,embedding\na,"[1, 0]"\nb,\nc,"[2.0, 0]"\n')
    found = dedupe(tmp_path / "a.csv")
    assert [(one.row, one.kept) for one in found.dropped] == [(2, 0)]
    assert found.without_vector == 1
    with pytest.raises(InputError, match=r"'embedding' is no vector"):
        dedupe([{"embedding": "one"}])
