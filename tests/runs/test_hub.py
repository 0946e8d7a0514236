"""Runs at the Hugging Face Hub: files of it, and datasets with a card. The Hub is a fake of its API."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.hub import TOKEN, Hub, hub  # noqa: F401  fixtures
from tests.libraries import library
from tests.runs.conftest import Place, echoes
from tests.runs.odd_bodies import good_body

from mistill import Run
from mistill.cli import main
from mistill.datasets.places import patience
from mistill.errors import InputError, LedgerError
from mistill.runs.hub_card import Split, parts_of
from mistill.runs.hub_patterns import files_of
from mistill.simulator import Simulator
from mistill.simulator.faults import Fault

DATA = "data/train-00000-of-00001.parquet"
TEXTS = ["one", "two", "three"]


@pytest.fixture
def run(place: Place) -> Run:
    library("pyarrow")
    place.write(TEXTS, label="a|b")
    run = place.run(
        prompt="Say ```{{ text }}```\x1b[31m", system="Be brief.", parameters={"temperature": 0.5}
    )
    run.start()
    return run


def table(data: bytes) -> list[dict[str, Any]]:
    return library("pyarrow.parquet").read_table(io.BytesIO(data)).to_pylist()


def test_a_run_is_pushed_in_one_commit_with_a_card(run: Run, hub: Hub) -> None:  # noqa: F811
    address = run.push_to_hub("me/answers", private=True)
    assert address.endswith(f"/datasets/me/answers/commit/{1:040}")
    ((message, changed),) = hub.commits
    assert (message.partition(" by")[0], sorted(changed)) == ("3 rows", ["README.md", DATA])
    assert hub.private == {"me/answers": True}
    files = hub.repos["me/answers"]
    assert [row["text"] for row in table(files[DATA])] == TEXTS

    card = files["README.md"].decode()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
    assert front["size_categories"] == ["n<1K"]
    assert "3 rows: answered by `mistral-small-latest`" in card
    assert "````jinja\nSay ```{{ text }}```\\x1b[31m\n````" in card
    assert "```jinja\nBe brief.\n```" in card
    assert '"temperature": 0.5' in card
    assert "| `label` | `string` |" in card
    assert "| answered | 3 |" in card
    assert 'load_dataset("me/answers", split="train")' in card
    assert not any(secret in card for secret in (TOKEN, "a-key-for-tests", "\x1b"))


def test_a_process_that_has_used_nothing_of_the_library_before_pushes(run: Run, hub: Hub) -> None:  # noqa: F811
    environment = os.environ | {"HF_ENDPOINT": library("huggingface_hub.constants").ENDPOINT}
    for repo, code in (("me/answers", 0), ("me/x y", 2)):
        pushed = subprocess.run(
            [sys.executable, "-m", "mistill", "push", str(run.out), repo],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (pushed.returncode, "internal error" in pushed.stderr) == (code, False), pushed.stderr
    assert [row["text"] for row in table(hub.repos["me/answers"][DATA])] == TEXTS


def test_a_card_says_what_was_asked_again_and_of_whom(place: Place, simulator: Simulator, hub: Hub) -> None:  # noqa: F811
    library("pyarrow")
    place.write(TEXTS)
    schema = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
    simulator.script([Fault.status(400)], when=lambda body: "two" in str(body))
    run = place.run(llm_settings={"structured_output": {"schema": schema}})
    run.start()
    run.retry(
        failed=True,
        prompt="Again: {{ text }}",
        parameters={"temperature": 0.25},
        llm={"model": "mistral-medium-latest", "structured_output": {"schema": schema | {"title": "Town"}}},
    ).start()
    run.push_to_hub("me/answers")
    card = hub.repos["me/answers"]["README.md"].decode()
    assert "3 rows: answered by `mistral-small-latest` and `mistral-medium-latest` with" in card
    assert "behind which" not in card
    assert "| `mistral-small-latest` | `mistral-small-latest` | 2 |" in card
    assert "| `mistral-medium-latest` | `mistral-medium-latest` | 1 |" in card
    own, again = card.split("### Once more: rows of which `state=failure` held")
    assert f"Schema:\n\n```json\n{json.dumps(schema, indent=2)}\n```" in own
    for changed in ("Again: {{ text }}", '"temperature": 0.25', '"title": "Town"'):
        assert changed in again
    assert '"schema"' not in card


@pytest.mark.parametrize("where", ["row>7", "text=four", "finish_reason=length"])
def test_no_rows_are_no_dataset(run: Run, hub: Hub, where: str) -> None:  # noqa: F811
    with pytest.raises(
        InputError, match=rf"no row of {re.escape(str(run.out))} matches '{where}'.*nothing was pushed"
    ):
        run.push_to_hub("me/answers", where=where)
    assert (hub.commits, hub.repos) == ([], {})


def test_the_same_run_is_pushed_again_and_another_is_refused(run: Run, hub: Hub, place: Place) -> None:  # noqa: F811
    run.push_to_hub("answers")  # in the name of whoever the token is of
    hub.repos["me/answers"]["data/train-00000-of-00002.parquet"] = b"of before"
    run.push_to_hub("hf://datasets/me/answers", where="row<2")
    assert hub.commits[-1][1] == [DATA, "README.md", "-data/train-00000-of-00002.parquet"]
    assert len(table(hub.repos["me/answers"][DATA])) == 2
    assert "2 rows, those of which `row<2` holds" in hub.repos["me/answers"]["README.md"].decode()

    other = place.run(out=place.out.with_name("other.jsonl"))
    other.start()
    with pytest.raises(InputError, match=r"holds another dataset.*overwrite=True"):
        other.push_to_hub("me/answers")
    other.push_to_hub("me/answers", overwrite=True, split="test")
    assert {DATA, "data/test-00000-of-00001.parquet"} <= hub.repos["me/answers"].keys()
    hub.repos["me/mine"] = {"rows.csv": b"dear"}
    with pytest.raises(InputError, match="holds another dataset"):
        other.push_to_hub("me/mine")


def test_marks_go_to_the_hub_as_columns(run: Run, hub: Hub) -> None:  # noqa: F811
    run.mark(0, "good", "as it is")
    run.push_to_hub("me/answers")
    assert "mark" not in table(hub.repos["me/answers"][DATA])[0]
    assert main(["push", str(run.out), "me/answers", "--extra-column", "mark,note"]) == 0
    first = table(hub.repos["me/answers"][DATA])[0]
    assert (first["mark"], first["note"]) == ("good", "as it is")
    assert "mark" in hub.repos["me/answers"]["README.md"].decode()


def test_what_cannot_be_pushed_is_said(run: Run, hub: Hub, place: Place, simulator: Simulator) -> None:  # noqa: F811
    for repo, settings, told in [
        *((repo, {}, f"{repo!r} names no repository") for repo in ("a/b/c", "me/x y", "../x", "me/x@rev")),
        ("me/answers", {"split": "a b"}, "is no name of one"),
        ("me/answers", {"token": "hf_wrong"}, "the store refuses access (set HF_TOKEN"),
    ]:
        with pytest.raises(InputError) as refused:
            run.push_to_hub(repo, **settings)
        assert told in str(refused.value)
    place.write([*TEXTS, "four"])
    sample = place.run(out=place.out.with_name("sample.jsonl"), sample=2)
    sample.start()
    with pytest.raises(LedgerError, match="no outcome"):
        sample.push_to_hub("me/answers")
    sample.push_to_hub("me/answers", partial=True)
    assert len(table(hub.repos["me/answers"][DATA])) == 2
    with pytest.raises(LedgerError, match="never started"):
        place.run(out=place.out.with_name("new.jsonl")).push_to_hub("me/answers")


def test_a_card_names_the_column_of_prompts_and_cuts_long_reasons(
    place: Place,
    simulator: Simulator,
    hub: Hub,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    library("pyarrow")
    place.input.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    simulator.script([Fault.status(200, good_body(finish_reason="because " * 700))])
    place.run(prompt=None).start()
    Run.open(place.out).push_to_hub("me/answers")
    card = hub.repos["me/answers"]["README.md"].decode()
    assert "Messages column: `messages`" in card
    assert "Prompt column" not in card
    assert "jinja" not in card
    capfd.readouterr()
    for command in (["status", str(place.out)], ["show", str(place.out), "0"]):
        assert main(command) == 0
    told = [
        line for line in card.splitlines() + "".join(capfd.readouterr()).splitlines() if "because" in line
    ]
    assert len(told) == 3
    assert max(map(len, told)) < 160


def test_the_command_pushes_and_says_where(run: Run, hub: Hub, capfd: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert main(["push", str(run.out), "me/answers", "--where", "row=1", "--split", "test"]) == 0
    assert "/datasets/me/answers/commit/" in capfd.readouterr().err
    assert len(table(hub.repos["me/answers"]["data/test-00000-of-00001.parquet"])) == 1
    hub.refuses = True
    assert main(["push", str(run.out), "me/answers"]) == 2
    told = capfd.readouterr()
    assert "the store refuses access" in told.err
    assert TOKEN not in told.out + told.err


@pytest.mark.parametrize("given", [None, TOKEN])
def test_a_token_that_the_hub_says_back_is_not_shown(
    given: str | None,
    run: Run,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the file of a login, or as an argument: the environment does not have it."""
    monkeypatch.delenv("HF_TOKEN")
    if given is None:
        Path(library("huggingface_hub.constants").HF_TOKEN_PATH).write_text(TOKEN)
    hub.echo = (418, "no tea for {}, whole or %68f_s3cr3t0ftests")
    with pytest.raises(InputError) as refused:
        run.push_to_hub("me/answers", token=given)
    assert "no tea for" in str(refused.value)
    assert not any(piece in str(refused.value) for piece in (TOKEN, TOKEN[3:]))


def test_what_is_no_hub_is_said_to_be_none(run: Run, hub: Hub) -> None:  # noqa: F811
    hub.echo = (200, "<html>log in, {}</html>")
    with pytest.raises(
        InputError, match=r"what answers at http://127\.0\.0\.1:\d+ is no Hugging Face Hub .*HF_ENDPOINT"
    ):
        run.push_to_hub("me/answers")


def test_where_no_hub_can_be_reached_that_is_said_with_what_to_do(
    run: Run,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.socket() as closed:  # it does not listen
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(library("huggingface_hub.constants"), "ENDPOINT", address)
        with pytest.raises(InputError) as refused:
            run.push_to_hub("me/answers", token=TOKEN)
    assert f"the Hub at {address} cannot be reached: " in refused.value.message
    assert (
        refused.value.hint
        == "see whether the network and HF_ENDPOINT are right, then push again, which does no harm"
    )


def test_a_hub_that_never_answers_is_waited_for_aloud_and_not_for_ever(
    run: Run,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(patience, "SAYS_AFTER_S", 0.01)
    monkeypatch.setattr(patience, "ENDS_AFTER_S", 0.02)
    hub.hangs = threading.Event()
    try:
        with pytest.raises(InputError, match="the store has not answered within"):
            run.push_to_hub("me/answers")
        assert "the store does not answer: it is waited for" in caplog.text
    finally:
        hub.hangs.set()


def front_of(hub: Hub, repo: str) -> tuple[dict[str, Any], str]:  # noqa: F811
    _, front, text = hub.repos[repo]["README.md"].decode().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_keeps_the_splits_that_are_there(run: Run, hub: Hub, place: Place) -> None:  # noqa: F811
    run.push_to_hub("me/two", where="row<2")
    run.push_to_hub("me/two", where="row>=2", split="test")
    run.push_to_hub("me/two", where="row<2")  # once more: it is there once
    front, text = front_of(hub, "me/two")
    both = [{"split": name, "path": f"data/{name}-*"} for name in ("test", "train")]
    assert front["configs"] == [{"config_name": "default", "data_files": both}]
    assert "| `test` | 1 | `row>=2` | `mistral-small-latest` |" in text
    assert "| `train` | 2 | `row<2` | `mistral-small-latest` |" in text
    assert "With all rows of the run, of which `train` is a part:" in text
    assert "What follows is of" not in text

    other = place.run(out=place.out.with_name("other.jsonl"), extra_columns=["raw"])
    other.start()
    with pytest.raises(InputError, match="holds another dataset"):
        other.push_to_hub("me/two", split="judged")
    other.push_to_hub("me/two", split="judged", overwrite=True)
    front, text = front_of(hub, "me/two")
    # Splits of one configuration have the same columns, or none of them can be loaded.
    own = {"config_name": "judged", "data_files": [{"split": "judged", "path": "data/judged-*"}]}
    assert front["configs"] == [{"config_name": "default", "data_files": both}, own]
    assert "What follows is of `judged`." in text
    assert "of which `judged` is a part" not in text
    assert 'load_dataset("me/two", "judged", split="judged")' in text
    run.push_to_hub("me/two", where="row>=2", split="test")
    with pytest.raises(InputError, match="'judged' of hf://datasets/me/two is of another run"):
        run.push_to_hub("me/two", split="judged")


def test_of_two_pushes_at_once_the_card_knows_both(run: Run, hub: Hub) -> None:  # noqa: F811
    run.push_to_hub("me/two", where="row=0")
    hub.meanwhile = [
        lambda: run.push_to_hub(
            "me/two", where="row=1", split="test"
        ),  # after the card was read, before it is there
        lambda: None,  # as that one arrives
        lambda: hub.heads.update({"me/two": 7}),
    ]
    address = run.push_to_hub("me/two", where="row=2", split="judged")
    assert address.endswith(hub.head("me/two"))
    front, _ = front_of(hub, "me/two")
    assert [one["split"] for one in front["configs"][0]["data_files"]] == ["train", "test", "judged"]
    assert len(hub.commits) == 3


def test_a_repository_that_becomes_another_dataset_meanwhile_is_refused(
    run: Run,
    hub: Hub,  # noqa: F811
    place: Place,
) -> None:
    other = place.run(out=place.out.with_name("other.jsonl"))
    other.start()
    hub.meanwhile = [lambda: other.push_to_hub("me/new")]
    with pytest.raises(InputError, match="holds another dataset"):
        run.push_to_hub("me/new")
    hub.meanwhile = [lambda: hub.heads.update({"me/mine": len(hub.meanwhile) + 1})] * 20
    with pytest.raises(InputError, match=r"was changed by somebody else 6 times.*push again"):
        run.push_to_hub("me/mine")
    assert len(hub.commits) == 1


def test_splits_of_others_stay_in_a_card_that_replaces_theirs(run: Run, hub: Hub) -> None:  # noqa: F811
    card = (
        "---\nlicense: mit\nconfigs:\n- config_name: de\n  data_files:\n  - {split: train, path: de/*.csv}\n"
    )
    hub.repos["me/mine"] = {
        "README.md": f"{card}- config_name: fr\n  data_files: fr.csv\n---\nMine".encode(),
        "de/1.csv": b"dear",
        "data/dev-00000-of-00001.parquet": b"dear",
    }
    run.push_to_hub("me/mine", overwrite=True)
    configs = front_of(hub, "me/mine")[0]["configs"]
    assert [(one["config_name"], one["data_files"]) for one in configs] == [
        ("de", [{"split": "train", "path": "de/*.csv"}]),
        ("fr", [{"split": "train", "path": "fr.csv"}]),  # its file may be still to come
        ("default", [{"split": "dev", "path": "data/dev-*"}]),
        ("train", [{"split": "train", "path": "data/train-*"}]),
    ]


@pytest.mark.parametrize(
    "there",
    ["train.csv", "data/train.jsonl", "rows.parquet", "data/train-00000-of-00001.csv.gz", "notes.txt"],
)
@pytest.mark.parametrize("card", [None, "# Mine", "---\nlicense: mit\n---\nMine"])
def test_data_that_no_card_names_is_not_left_without_a_split(
    run: Run,
    hub: Hub,  # noqa: F811
    there: str,
    card: str | None,
) -> None:
    files = {there: b"dear"} | ({} if card is None else {"README.md": card.encode()})
    hub.repos["me/mine"] = {".gitattributes": b"", "dataset_infos.json": b"{}", ".old/a.csv": b""} | files
    with pytest.raises(InputError, match=rf"does not name: {re.escape(there)};.*name it in the card first"):
        run.push_to_hub("me/mine", overwrite=True)
    assert hub.commits == []
    named = yaml.safe_dump({"configs": [{"config_name": "theirs", "data_files": there}]})
    hub.repos["me/named"] = files | {"README.md": f"---\n{named}---\n".encode()}
    run.push_to_hub("me/named", overwrite=True)
    names = [one["config_name"] for one in front_of(hub, "me/named")[0]["configs"]]
    assert names == ["theirs", "default"]


def test_of_much_data_that_no_card_names_a_few_files_are_told(run: Run, hub: Hub) -> None:  # noqa: F811
    hub.repos["me/mine"] = {f"part-{number}.csv": b"" for number in range(7)}
    with pytest.raises(InputError, match=r"does not name: part-0\.csv, .*part-4\.csv and 2 more;"):
        run.push_to_hub("me/mine", overwrite=True)


def test_what_the_head_of_a_card_says_besides_is_kept(run: Run, hub: Hub) -> None:  # noqa: F811
    head = {
        "license": "mit",
        "language": ["de", "fr"],
        "pretty_name": "Städte",
        "tags": ["towns", "synthetic"],
        "size_categories": ["1M<n<10M"],
        "dataset_info": {"features": []},
    }
    card = f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---\nMine"
    hub.repos["me/mine"] = {"README.md": card.encode(), DATA: b"dear"}
    for _ in range(2):
        run.push_to_hub("me/mine", overwrite=True)
        front, _ = front_of(hub, "me/mine")
        assert list(front)[:3] == ["license", "language", "pretty_name"]
        assert {name: front[name] for name in ("license", "language", "pretty_name", "tags")} == {
            "license": "mit",
            "language": ["de", "fr"],
            "pretty_name": "Städte",
            "tags": ["towns", "synthetic", "mistral", "mistill"],
        }
        assert (front["size_categories"], "dataset_info" in front) == (["n<1K"], False)


CONFIGS: list[dict[str, Any]] = [
    {"config_name": "list", "data_files": [{"split": "train", "path": ["a.csv", "b.csv"]}], "default": True},
    {"config_name": "one", "data_files": "c.csv", "sep": ";"},
    {"config_name": "dict", "data_files": {"train": "./a.csv", "test": ["b.csv"]}},
    {"config_name": "web", "data_files": "https://example.org/*.csv"},
    {"config_name": "folder", "data_dir": "more"},
    {"config_name": "default", "data_dir": "more", "data_files": "*.csv"},
]


def test_whatever_form_files_of_others_are_named_in_they_are_named_afterwards(run: Run, hub: Hub) -> None:  # noqa: F811
    gone = {"config_name": "gone", "data_files": {"train": "data/train-00000-of-00001.parquet"}}
    there = {"a.csv": b"", "b.csv": b"", "c.csv": b"", "more/d.csv": b"", DATA: b"dear"}
    card = f"---\n{yaml.safe_dump({'configs': [*CONFIGS, gone]}, sort_keys=False)}---\n"
    hub.repos["me/mine"] = {"README.md": card.encode(), **there}
    for _ in range(2):
        run.push_to_hub("me/mine", overwrite=True)
        configs = {one.pop("config_name"): one for one in front_of(hub, "me/mine")[0]["configs"]}
        assert configs == {
            "list": {"data_files": [{"split": "train", "path": ["a.csv", "b.csv"]}], "default": True},
            "one": {"data_files": [{"split": "train", "path": "c.csv"}], "sep": ";"},
            "dict": {
                "data_files": [{"split": "train", "path": "./a.csv"}, {"split": "test", "path": ["b.csv"]}]
            },
            "web": {"data_files": [{"split": "train", "path": "https://example.org/*.csv"}]},
            "folder": {"data_dir": "more"},
            "default": {"data_dir": "more", "data_files": "*.csv"},
            "train": {"data_files": [{"split": "train", "path": "data/train-*"}]},
        }


FORMS_OF_A_HEAD = {
    "a blank line before it": "\n---\n{}---\nhello",
    "lines of Windows": "---\r\n{}---\r\n",
    "a mark of the order of bytes": "\ufeff---\n{}---\n",
    "blanks after its end": "---\n{}--- \n",
    "a name that is no text": "---\nyes: 1\n{}---\n",
}


@pytest.mark.parametrize("form", FORMS_OF_A_HEAD.values(), ids=FORMS_OF_A_HEAD)
def test_the_head_of_a_card_is_read_as_the_hub_reads_it(
    form: str,
    run: Run,
    hub: Hub,  # noqa: F811
    tmp_path: Path,
) -> None:
    config = {"config_name": "de", "data_files": [{"split": "train", "path": "de.csv"}]}
    card = form.format(yaml.safe_dump({"configs": [config | {False: 1}]})).encode()
    (tmp_path / "README.md").write_bytes(card)
    assert library("huggingface_hub").metadata_load(tmp_path / "README.md")["configs"]
    hub.repos["me/mine"] = {"README.md": card, "de.csv": b"dear"}
    run.push_to_hub("me/mine", overwrite=True)
    own = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    theirs, ours = front_of(hub, "me/mine")[0]["configs"]
    assert (theirs, ours["data_files"]) == (config | {False: 1}, own["data_files"])


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("data/**/*.csv", ["data/x.csv", "data/more/y.csv", "data/more/most/z.csv"]),
        ("data/*.csv", ["data/x.csv"]),
        ("**/more/*", ["data/more/y.csv"]),
        ("./**", ["data/x.csv", "data/more/y.csv", "data/more/most/z.csv", "data/[1].txt"]),
        ("*", []),
        ("data/[[]1].txt", ["data/[1].txt"]),
        ("README.md", ["README.md"]),
        ("**/.hidden/*", ["data/.hidden/h.csv"]),
        ("__odd__/*.csv", ["__odd__/o.csv"]),
        ("data/**.csv", []),
        ("data", []),
    ],
)
def test_patterns_name_the_files_that_datasets_finds(pattern: str, found: list[str]) -> None:
    library("fsspec")
    there = ["README.md", ".gitattributes", "config.json", "__odd__/o.csv", "data/.hidden/h.csv"]
    there += ["data/x.csv", "data/more/y.csv", "data/more/most/z.csv", "data/[1].txt"]
    assert files_of(pattern, there) == found


def test_a_split_of_others_goes_only_where_all_of_its_files_are_replaced(run: Run, hub: Hub) -> None:  # noqa: F811
    of_splits = {
        "deep": "data/**/*.csv",
        "to_come": "more/*.csv",
        "odd": "data/**.csv",
        "all": "**",
        "ours": "data/**/train-*.parquet",
        "both": [DATA, "https://example.org/more.parquet"],
    }
    configs = [
        {"config_name": name, "data_files": [{"split": "train", "path": path}]}
        for name, path in of_splits.items()
    ]
    card = f"---\n{yaml.safe_dump({'configs': configs}, sort_keys=False)}---\n"
    hub.repos["me/mine"] = {"README.md": card.encode(), ".gitattributes": b"", DATA: b"", "data/x.csv": b""}
    run.push_to_hub("me/mine", overwrite=True)
    theirs = [config for config in configs if config["config_name"] != "ours"]
    own = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
    assert front_of(hub, "me/mine")[0]["configs"] == [*theirs, own]


def test_a_split_of_ours_that_has_no_files_any_more_is_in_no_card(run: Run, hub: Hub) -> None:  # noqa: F811
    run.push_to_hub("me/two", where="row<2")
    run.push_to_hub("me/two", where="row>=2", split="test")
    del hub.repos["me/two"][DATA]
    run.push_to_hub("me/two", where="row>=2", split="test")
    (config,) = front_of(hub, "me/two")[0]["configs"]
    assert config["data_files"] == [{"split": "test", "path": "data/test-*"}]


def test_a_bar_in_a_text_of_the_card_is_escaped_in_tables_only(place: Place, hub: Hub) -> None:  # noqa: F811
    library("pyarrow")
    place.write(TEXTS, **{"a|b": "x|y"})
    run = place.run()
    run.start()
    run.push_to_hub("me/bars", where="'a|b'=x|y")
    card = hub.repos["me/bars"]["README.md"].decode()
    assert "those of which `'a|b'=x|y` holds" in card
    assert "| `a\\|b` | `string` |" in card


def test_cards_of_others_are_none_of_ours() -> None:
    library("fsspec")
    for text in (
        None,
        "",
        "# A card",
        "---\n: [\n---\n",
        "---\nmistill: 5\n---\n",
        "---\n- a\n---\n",
        "---\nconfigs: {}\n---\n",
        "---\nmistill: {splits: 3}\nconfigs: [1, {config_name: a}]\n---\n",
    ):
        assert parts_of(text, ["README.md", DATA, "rows.csv"]).splits == [
            Split("train", "default", "data/train-*")
        ]


def test_files_of_the_hub_are_inputs_and_outputs(
    place: Place,
    hub: Hub,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("MISTILL_STATE_DIR", str(tmp_path / "state"))
    hub.repos["org/it"] = {
        "data/in.jsonl": "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    }
    place.run("hf://datasets/org/it/data/*.jsonl", out="hf://datasets/org/it/out.jsonl").start()
    lines = hub.repos["org/it"]["out.jsonl"].splitlines()
    assert [json.loads(line)["generation"] for line in lines] == echoes(TEXTS)
    assert [changed for _, changed in hub.commits] == [["out.jsonl"]]
    with pytest.raises(InputError, match="there is no repository datasets/org/none"):
        place.run("hf://datasets/org/it/data/in.jsonl", out="hf://datasets/org/none/out.jsonl")
    with pytest.raises(InputError, match="no such file"):
        place.run("hf://datasets/org/it/data/none.jsonl")
