"""Whether two texts name one place."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.errors import InputError
from mistill.kinds.kept_settings import ledger_beside
from mistill.ledger.targets import check_targets
from mistill.same_place import canonical, is_same_place

SAME = [
    ("s3a://b/k", "s3://b/k"),
    ("S3://b/k", "s3://b/k"),
    ("s3://b/k?versionId=1", "s3://b/k"),
    ("gcs://b/k", "gs://b/k"),
    ("abfss://c@a.dfs.core.windows.net/k", "abfs://c@a/k"),
    ("hf://datasets/me/it@main/a", "hf://datasets/me/it/a"),
    ("https://HOST:443/a/../%62.csv?sig=1", "https://host/b.csv?sig=2"),
    ("http://host/%2fa", "http://host:80/%2Fa#x"),
    ("postgres://me@HOST:5432/db?table=public.t", "postgresql://me:pw@host/db?sslmode=require&table=t"),
    ("postgresql://h/db?table=%74", 'postgresql://h/db?table="t"'),
    ("sqlite:///./f.db?table=T", "sqlite:///f.db?table=main.t"),
    ("sqlite:///f%2Edb?table=t", 'sqlite:///f.db?table="t"'),
    ("duckdb:///f.db?table=f.main.T", "duckdb:///f.db?table=t"),
]
MAY_BE_SAME = [
    ("az://c/k", "abfs://c@a/k"),
    ("http://host/k", "https://host/k"),
    ("postgresql://you@localhost/db?table=t", "postgresql://me@127.0.0.1/db?table=app.t"),
    ("postgresql:///db?host=/run/postgresql&table=t", "postgresql://localhost/db?table=t"),
    ("postgresql://a,b/db?table=t", "postgresql://b/db?table=t"),
    ("postgresql://a/?dbname=db&table=t", "postgresql:///db?host=a&table=t"),
    ("postgresql:///?service=it&table=t", "postgresql://a/db?table=t"),
    ("sqlite:///f.db?query=SELECT * FROM T", "sqlite:///f.db?table=t"),
    (f"postgresql:///db?query=SELECT * FROM {'t' * 63}_in", f"postgresql:///db?table={'t' * 63}"),
    (f"postgresql://h/{'d' * 63}_a?table=t", f"postgresql://h/{'d' * 63}?table=t"),
    ("sqlite:///f.db?query=SELECT 'a' FROM \"t\"", "sqlite:///f.db?table=t"),
]
OTHERS = [
    ("s3://b/k", "s3://b/K"),
    ("s3://b/k", "gs://b/k"),
    ("s3://b/%6B", "s3://b/k"),
    ("s3://b/k", "k"),
    ("az://c@a/k", "az://c@b/k"),
    ("hf://datasets/me/it@v1/a", "hf://datasets/me/it/a"),
    ("https://host/A", "https://host/a"),
    ("postgresql://h/db?table=T", "postgresql://h/db?table=t"),
    ("postgresql://h/db?table=a.t", "postgresql://h/db?table=b.t"),
    ("postgresql://h:5433/db?table=t", "postgresql://h/db?table=t"),
    ("postgresql://h/other?table=t", "postgresql://h/db?table=t"),
    ("sqlite:///f.db?table=t", "duckdb:///f.db?table=t"),
    ("sqlite:///f.db?table=t", "sqlite:///g.db?table=t"),
    ("sqlite:///f.db?table=temp.t", "sqlite:///f.db?table=t"),
    ("sqlite:///f.db?query=SELECT * FROM tt", "sqlite:///f.db?table=t"),
    ("rows.jsonl", "other.jsonl"),
]


@pytest.fixture(autouse=True)
def _no_settings_of_postgresql(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_is_one_place_has_one_ledger_and_is_never_input_and_output(one: str, other: str) -> None:
    assert canonical(one) == canonical(other) == canonical(canonical(one))
    assert ledger_beside(one) == ledger_beside(other)
    for out, source in ((one, other), (other, one)):
        with pytest.raises(InputError, match="is an input"):
            check_targets(out, None, [source])


@pytest.mark.parametrize(("one", "other"), MAY_BE_SAME)
def test_what_may_be_one_place_is_never_input_and_output(one: str, other: str) -> None:
    for out, source in ((one, other), (other, one)):
        with pytest.raises(InputError, match="is an input"):
            check_targets(out, None, [source])


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_what_are_two_places_may_be_input_and_output(one: str, other: str) -> None:
    assert not is_same_place(one, other)
    assert not is_same_place(other, one)
    check_targets(one, None, [other])


def test_a_file_has_one_ledger_by_whatever_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    for name in ("out.jsonl", "f.db"):
        Path(f"link-{name}").symlink_to(f"there/{name}")
    assert ledger_beside("link-out.jsonl") == tmp_path / "there/out.jsonl.ledger"
    assert ledger_beside("sqlite:///link-f.db?table=T") == tmp_path / "there/f.db.t.ledger"
    for out, source in (
        ("link-out.jsonl", "there/out.jsonl"),
        ("sqlite:///link-f.db?table=T", "sqlite:///there/f.db?table=t"),
        ("there/f.db", "sqlite:///link-f.db?table=t"),
        ("duckdb:///there/f.db?table=t", "link-f.db"),
    ):
        with pytest.raises(InputError, match="is an input"):
            check_targets(out, None, [source])


@pytest.mark.parametrize(
    ("out", "earlier"),
    [
        ("link.jsonl", "link.jsonl.ledger"),
        ("sqlite:///f.db?table=T", "f.db.T.ledger"),
        ("s3a://b/k", "s3a/b/k.ledger"),
    ],
)
def test_a_ledger_of_an_earlier_version_is_gone_on_with(
    out: str, earlier: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MISTILL_STATE_DIR", str(tmp_path))
    Path("link.jsonl").symlink_to("there.jsonl")
    path = tmp_path / "ledgers" / earlier if "://b" in out else Path(earlier)
    assert ledger_beside(out) != path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert ledger_beside(out) == path


WRITTEN = st.sampled_from(["as it is", "quoted"])
PLACES = st.tuples(st.sampled_from(["", "./"]), st.sampled_from(["", "main.", "MAIN."]))


@given(
    st.text(st.sampled_from("abz- é%?"), min_size=1, max_size=6),
    st.text(st.sampled_from('aZ_. "é%&'), min_size=1, max_size=6),
    st.lists(st.booleans(), min_size=1),
    st.lists(st.tuples(PLACES, WRITTEN, WRITTEN), min_size=2, max_size=2),
)
def test_a_table_is_one_however_it_is_written(
    file: str, table: str, capitals: list[bool], ways: list[tuple[tuple[str, str], str, str]]
) -> None:
    addresses: list[str] = []
    for number, ((start, schema), of_file, of_table) in enumerate(ways):
        cases = zip(table, capitals * len(table), strict=False)
        name = "".join(one.upper() if number and up and one.isascii() else one for one, up in cases)
        text = '"' + name.replace('"', '""') + '"'
        path = quote(file, safe=" é" if of_file == "as it is" else "")
        told = quote(text, safe=' "é' if of_table == "as it is" else "")
        addresses.append(f"sqlite:///{start}{path}?table={schema}{told}")
    assert ledger_beside(addresses[0]) == ledger_beside(addresses[1])
    with pytest.raises(InputError, match="is an input"):
        check_targets(addresses[0], None, [addresses[1]])
