"""An input that is cut into shards is read as it is in one piece, row by row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.libraries import library

from mistill.datasets.sources import open_source
from mistill.datasets.sources.slices import cut, cut_points_of
from mistill.errors import InputError
from mistill.shards.plan import check_plan, make_plan, read_plan

_TOO_DEEP = '{"text": ' + "[" * 2000 + "]" * 2000 + "}"
"""A row whose own failure it is."""
_LINES = st.lists(
    st.one_of(
        st.builds(lambda text: json.dumps({"text": text}, ensure_ascii=False), st.text(max_size=12)),
        st.sampled_from(["", "  ", '\ufeff{"text": "joined"}', '\t{"text": "é"}', "\ufeff", _TOO_DEEP]),
    ),
    max_size=30,
)


@given(lines=_LINES, ends=st.sampled_from(["", "\n", "\r\n"]), shards=st.integers(1, 7))
@settings(max_examples=60)
def test_shards_of_json_lines_have_each_row_once_in_order_and_where_it_stands(
    lines: list[str], ends: str, shards: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("in") / "in.jsonl"
    path.write_bytes(("\n".join(lines) + ends).encode())
    source = open_source(path)
    points = cut_points_of(source.inputs)
    assert points is not None
    pieces = cut(source.inputs, points, shards)
    read = [(row.raw, row.where) for _, slices in pieces for one in slices for row in one.open().rows(0)]
    assert read == [(row.raw, row.where) for row in source]
    assert [rows for rows, _ in pieces] == [
        sum(1 for one in slices for _ in one.open().rows(0)) for _, slices in pieces
    ]
    assert len(pieces) <= shards


@pytest.mark.parametrize(
    "broken",
    [
        b'{"text": oops}',
        b"[1]",
        b'{"text": "cut',
        '{"text": "é"}'.encode("latin-1"),
        '{"text": "é"}'.encode("utf-16"),
    ],
)
@pytest.mark.parametrize("place", [0, 3, 5])
def test_a_line_that_is_no_row_is_refused_before_a_plan_is_made_as_where_rows_are_read(
    broken: bytes, place: int, tmp_path: Path
) -> None:
    lines = [json.dumps({"text": f"row {number}"}).encode() for number in range(5)]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    path = tmp_path / "b.jsonl"
    path.write_bytes(b"\n".join([*lines[:place], broken, *lines[place:]]))
    source = open_source([str(tmp_path / "a.jsonl"), str(path)])
    with pytest.raises(InputError) as read:
        list(source)
    with pytest.raises(InputError) as planned:
        make_plan(tmp_path, source, {}, shards=2, workers=2)
    assert (planned.value.message, planned.value.hint) == (read.value.message, read.value.hint)
    assert planned.value.index == read.value.index
    assert read_plan(tmp_path) is None


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("shards", [1, 3, 10, 40])
def test_shards_of_tables_have_each_row_once_in_order_and_where_it_stands(
    suffix: str, shards: int, tmp_path: Path
) -> None:
    arrow = library("pyarrow")
    parquet = library("pyarrow.parquet")
    table = arrow.table({"number": list(range(100))})
    for name, rows in (("a", 7), ("b", 64)):
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            parquet.write_table(table, path, row_group_size=rows)
        else:
            with arrow.ipc.new_file(path, table.schema) as writer:
                writer.write_table(table, max_chunksize=rows)
    source = open_source(str(tmp_path / f"*.{suffix}"))
    points = cut_points_of(source.inputs)
    assert points is not None
    pieces = cut(source.inputs, points, shards)
    assert sum(rows for rows, _ in pieces) == 200
    assert {rows for rows, _ in pieces} <= {200 // shards, 200 // shards + 1}
    read = [(row.raw, row.where) for _, slices in pieces for one in slices for row in one.open().rows(0)]
    assert read == [(row.raw, row.where) for row in source]


def test_a_plan_is_for_the_input_that_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"n": n}) + "\n" for n in range(10)))
    plan = make_plan(tmp_path, open_source(path), {"explode": None}, shards=3, workers=3)
    assert read_plan(tmp_path) == plan
    assert [shard.rows for shard in plan.shards] == [4, 3, 3]
    check_plan(plan, tmp_path, open_source(path), {}, shards=3)
    with pytest.raises(InputError, match=r"cut into 3 shards, not 4"):
        check_plan(plan, tmp_path, open_source(path), {}, shards=4)
    with pytest.raises(InputError, match=r"where: None → 'n>3'"):
        check_plan(plan, tmp_path, open_source(path), {"where": "n>3"}, shards=None)
    with path.open("a") as file:
        file.write('{"n": 10}\n')
    with pytest.raises(InputError, match=r"in\.jsonl had 90 bytes, and has 100"):
        check_plan(plan, tmp_path, open_source(path), {}, shards=None)


def test_rows_that_changed_where_the_file_was_cut_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"n": 1}\n{"n": 2}\n{"n": 3}\n{"n": 4}\n')
    plan = make_plan(tmp_path, open_source(path), {}, shards=2, workers=2)
    path.write_text('{"n": 1}\n{"n": 2222222222222}\n{"n": 4}\n')  # as long as before
    with pytest.raises(InputError) as refused:  # it is cut in the middle now
        list(plan.source(0, open_source(path), None))
    told = str(refused.value)
    assert (
        f"{path} line 2 could be read when the run was cut into shards, and has changed: not JSON: " in told
    )
    assert "put it back as it was, or give another output" in told
    path.write_text('{"n": 1}\n\n\n\n\n\n\n\n\n\n{"n": 3}\n{"n": 4}\n')
    with pytest.raises(InputError, match=r"it had 2 rows here, and now has 1"):
        list(plan.source(0, open_source(path), None))


def test_what_cannot_be_cut_is_written_anew_with_its_types(tmp_path: Path) -> None:
    arrow = library("pyarrow")
    table = arrow.table({"n": arrow.array([1, 2, None], arrow.int16()), "t": ["a", "b", "c"]})
    plan = make_plan(tmp_path, open_source(table), {}, shards=2, workers=2)
    whole = plan.whole()
    assert [row.record for row in whole] == [{"n": 1, "t": "a"}, {"n": 2, "t": "b"}, {"n": None, "t": "c"}]
    assert str(whole.types()["n"]) == "int16"
    check_plan(plan, tmp_path, open_source(table), {}, shards=None)
    with pytest.raises(InputError, match="the rows are others"):
        check_plan(plan, tmp_path, open_source(table.slice(1)), {}, shards=None)


def test_a_compressed_or_csv_file_is_written_anew_and_its_pictures_are_found(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "in.csv"
    path.write_text("n,t\n1,a\n2,b\n3,c\n")
    (tmp_path / "ledgers").mkdir()
    plan = make_plan(tmp_path / "ledgers", open_source(path), {}, shards=2, workers=2)
    first = plan.source(1, plan.whole(), None)
    assert [row.record for row in first] == [{"n": "3", "t": "c"}]
    assert [list(one.folders) for one in first.inputs] == [[path.parent]]
