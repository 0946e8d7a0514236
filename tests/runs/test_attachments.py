"""Images, documents and sound of rows: what goes along with a prompt, and what is kept of it."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import struct
import sys
import wave
import zlib
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import Place

from mistill import MistralEmbeddings, Run
from mistill.cli.exit_codes import Exit, exit_of_start
from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.ledger import LedgerReader
from mistill.llms import content
from mistill.runs.export import export_run
from mistill.simulator import Simulator

PDF = b"%PDF-1.7\n1 0 obj << /Type /Page >> endobj"
ADDRESS = "https://example.com/cat.png"


def png(shade: int = 0, side: int = 40) -> bytes:
    """A grey image, whole."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    lines = b"".join(b"\0" + bytes([shade]) * side for _ in range(side))
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + part(b"IHDR", header)
        + part(b"IDAT", zlib.compress(lines))
        + part(b"IEND", b"")
    )


def sound(samples: int = 800) -> bytes:
    written = io.BytesIO()
    with wave.open(written, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(b"\0\0" * samples)
    return written.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64(data)}"


def chunks(simulator: Simulator) -> list[list[Any]]:
    """The content of the last message of every request, in the order of their texts."""
    contents = [request.body["messages"][-1]["content"] for request in simulator.requests]
    return sorted(contents, key=lambda content: content if isinstance(content, str) else content[0]["text"])


def images(simulator: Simulator) -> list[str]:
    """Of the one request, the images."""
    [content] = chunks(simulator)
    return [chunk["image_url"]["url"] for chunk in content[1:]]


# --- where they come from -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        png(),
        bytearray(png()),
        b64(png()),
        data_url(png()),
        {"bytes": png(), "path": None},
        {"bytes": png(), "path": "not-there.png"},
        [png()],
    ],
)
def test_an_image_is_taken_in_whatever_form_a_row_has_it(
    place: Place, simulator: Simulator, value: Any
) -> None:
    assert place.run([{"text": "What?", "photo": value}], images="photo").start().completions == 1
    assert chunks(simulator) == [
        [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": data_url(png())}}]
    ]


def test_an_address_is_for_the_server_to_fetch(place: Place, simulator: Simulator) -> None:
    place.run([{"text": "What?", "photo": ADDRESS}], images=["photo"]).start()
    assert images(simulator) == [ADDRESS]


def test_a_path_begins_beside_the_input_or_else_where_one_works(
    place: Place, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "near.png").write_bytes(png(1))
    (here / "both.png").write_bytes(png(2))
    place.input.with_name("both.png").write_bytes(png(3))
    place.write_rows(
        [{"text": "What?", "photo": [Path("near.png").name, "both.png", str(here / "both.png")]}]
    )
    place.run(images="photo").start()
    assert images(simulator) == [data_url(png(1)), data_url(png(3)), data_url(png(2))]


def test_several_columns_and_lists_go_along_in_order_and_null_is_nothing(
    place: Place, simulator: Simulator
) -> None:
    row = {
        "text": "Compare.",
        "photos": [png(1), None, png(2)],
        "none": None,
        "paper": PDF,
        "voice": sound(),
    }
    options = {"images": ["photos", "none"], "documents": ["paper"], "audio": ["voice"]}
    assert place.run([row], **options).start().completions == 1
    [content] = chunks(simulator)
    assert [chunk["type"] for chunk in content] == [
        "text", "image_url", "image_url", "document_url", "input_audio",
    ]  # fmt: skip
    assert content[-1]["input_audio"] == b64(sound())


def test_a_row_whose_column_is_null_is_sent_as_text_alone(place: Place, simulator: Simulator) -> None:
    place.run([{"text": "a", "photo": None}, {"text": "b", "photo": png()}], images="photo").start()
    first, second = chunks(simulator)
    assert first == "a"
    assert len(second) == 2


def test_images_go_along_with_messages_of_the_row(place: Place, simulator: Simulator) -> None:
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    place.run([{"messages": messages, "photo": ADDRESS}], prompt=None, images="photo").start()
    sent = simulator.requests[0].body["messages"]
    assert sent[0]["content"] == "first"
    assert [chunk["type"] for chunk in sent[2]["content"]] == ["text", "image_url"]


def test_samples_become_a_sound_file(place: Place, simulator: Simulator) -> None:
    voice = {"array": [0.0, 1.0, -1.0, 0.5], "sampling_rate": 8000, "path": None}
    place.run([{"text": "What?", "voice": voice}], audio="voice").start()
    [[_, chunk]] = chunks(simulator)
    with wave.open(io.BytesIO(base64.b64decode(chunk["input_audio"]))) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 8000, 4)
        assert struct.unpack("<4h", file.readframes(4)) == (0, 32767, -32767, 16384)


def test_columns_of_bytes_in_parquet_are_taken(place: Place, simulator: Simulator, tmp_path: Path) -> None:
    pyarrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    table = pyarrow.table({"text": ["What?"], "photo": [png()]})
    parquet.write_table(table, tmp_path / "in.parquet")
    place.run(tmp_path / "in.parquet", images="photo").start()
    assert images(simulator) == [data_url(png())]


def test_images_of_pillow_and_of_hugging_face_are_taken(
    place: Place, simulator: Simulator, tmp_path: Path
) -> None:
    pillow, datasets = library("PIL.Image"), library("datasets")
    (tmp_path / "a.png").write_bytes(png(7))
    image = pillow.open(tmp_path / "a.png")
    place.run([{"text": "What?", "photo": image}], images="photo").start()
    [url] = images(simulator)
    assert pillow.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).getpixel((0, 0)) == 7
    columns = {"text": ["What?"], "photo": [str(tmp_path / "a.png")]}
    rows = datasets.Dataset.from_dict(columns).cast_column("photo", datasets.Image())
    place.run(rows, images="photo", out=tmp_path / "other.jsonl").start()
    assert simulator.requests[1].body["messages"][0]["content"][1]["image_url"]["url"] == data_url(png(7))


def test_bytes_that_are_no_image_are_taken_for_bytes(place: Place) -> None:
    place.run([{"text": "a", "photo": b"BM"}, {"text": "b", "photo": png()}], images="photo").start()
    assert "image: its bytes are of no known type" in place.records()[0]["error"]


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_is_no_image_fails_its_row_alone_even_the_first(place: Place, simulator: Simulator) -> None:
    place.input.with_name("text.png").write_text("no image")
    rows = [
        {"text": "a", "photo": "text.png"},
        {"text": "b", "photo": ADDRESS},
        {"text": "c", "photo": b64(PDF)},
    ]
    place.write_rows(rows)
    summary = place.run(images="photo").start()
    assert (summary.completions, summary.failures) == (1, 2)
    assert [cause.kind for cause in summary.causes] == ["wrong_file"]
    first, _, third = place.records()
    assert "column 'photo': text.png: image: its bytes are of no known type" in first["error"]
    document = "its bytes are application/pdf (it is a document, which goes along by documents=['photo'])"
    assert document in third["error"]
    assert simulator.answered == 1


@pytest.mark.parametrize(
    ("kind", "data", "found"),
    [
        ("images", PDF, "a document, which goes along by documents=['photo']"),
        ("images", sound(), "sound, which goes along by audio=['photo']"),
        ("documents", png(), "an image, which goes along by images=['photo']"),
        ("documents", sound(), "sound, which goes along by audio=['photo']"),
        ("audio", png(), "an image, which goes along by images=['photo']"),
        ("audio", PDF, "a document, which goes along by documents=['photo']"),
    ],
)
def test_what_is_of_another_kind_is_refused_before_it_is_sent_with_the_right_option(
    place: Place, simulator: Simulator, kind: str, data: bytes, found: str
) -> None:
    place.input.with_name("thing.bin").write_bytes(data)
    place.write_rows([{"text": "a", "photo": one} for one in ("thing.bin", b64(data), data_url(data))])
    run = place.run(**{kind: "photo"})
    refusals = run.dry_run().refusals
    assert len(refusals) == 3
    assert all(refusal.hint == f"it is {found}" for refusal in refusals)
    assert run.start().failures == 3
    assert simulator.requests == []


def test_files_of_a_folder_that_are_all_of_another_kind_are_refused_at_once(
    place: Place, folder: str
) -> None:
    with pytest.raises(
        InputError, match=r"none of them is of the kind document \(send them: images=\['file'\]\)"
    ):
        place.run(folder, prompt="Read.", documents="file")


def test_urls_of_files_and_the_home_directory_are_paths(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = place.input.parent / "at home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    (home / "a b.png").write_bytes(png())
    named = [
        (home / "a b.png").as_uri(),
        f"file://localhost{home}/a%20b.png",
        "~/a b.png",
        str(home / "a b.png"),
    ]
    place.write_rows([{"text": "a", "photo": one} for one in named])
    assert place.run(images="photo").start().completions == 4
    images = [
        request.body["messages"][-1]["content"][-1]["image_url"]["url"] for request in simulator.requests
    ]
    assert images == [data_url(png())] * 4
    assert content.image(f"file://{home}/a%20b.png")["image_url"]["url"] == data_url(png())
    place.write_rows([{"text": "a", "photo": "file:///not/there.png"}])
    with pytest.raises(InputError, match=r"there is no file 'file:///not/there\.png'"):
        place.run(images="photo", fresh=True).start()


def test_an_image_that_is_too_large_fails_its_row(place: Place) -> None:
    place.input.with_name("large.png").write_bytes(png() + bytes(11 * 2**20))
    place.write_rows([{"text": "a", "photo": "large.png"}, {"text": "b", "photo": ADDRESS}])
    assert place.run(images="photo").start().failures == 1
    assert "11.0 MiB are more than 10 MiB" in place.records()[0]["error"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no file names that are not UTF-8")
def test_a_file_in_a_folder_fails_alone_and_says_why(place: Place, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a b ü.png").write_bytes(png())
    (folder / "empty.png").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(png())
    with open(os.fsencode(folder) + b"/latin-\xe9.png", "wb") as file:  # noqa: PTH123  a Path has no such bytes
        file.write(png())
    (folder / "link.png").symlink_to("not-there.png")
    report = place.run(str(folder), prompt="Caption.", images="file").start()
    assert (report.completions, report.failures) == (1, 2)
    errors = {Path(record["file"]).name: record["error"] for record in place.records()}
    assert errors.pop("a b ü.png") is None
    assert "empty.png: image: it is empty" in errors.pop("empty.png")
    [(_, not_utf8)] = errors.items()
    assert "rename the file" in not_utf8


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a", "photo": "not-there.png"}, r"column 'photo': image: there is no file 'not-there.png'"),
        ({"text": "a", "foto": "cat.png"}, r"no column 'photo' with images"),
        ({"text": "a", "photo": "\0"}, r"there is no file"),
    ],
)
def test_a_first_row_without_its_file_stops_the_run(
    place: Place, simulator: Simulator, row: dict[str, Any], message: str
) -> None:
    place.write_rows([row])
    with pytest.raises(InputError, match=message):
        place.run(images="photo").start()
    assert simulator.requests == []


def test_a_server_of_text_alone_is_sent_no_image(place: Place) -> None:
    run = place.run([{"text": "a", "photo": ADDRESS}], images="photo", llm_settings={"dialect": "local"})
    with pytest.raises(InputError, match="reads text only"):
        run.start()


def test_embeddings_have_no_images(place: Place) -> None:
    llm = MistralEmbeddings(endpoint=place.endpoint)
    with pytest.raises(InputError, match=r"images.*have no such setting"):
        Run([{"text": "a"}], llm=llm, images="photo")
    (place.input.parent / "photos").mkdir()
    (place.input.parent / "photos" / "a.png").write_bytes(png())
    with pytest.raises(InputError, match="embeddings send no image"):
        Run(place.input.parent / "photos", llm=llm)


# --- what is kept, and found again -----------------------------------------------------------------------------------


def test_a_file_is_not_copied_and_bytes_stand_once(place: Place) -> None:
    body = b64(png(9))
    place.input.with_name("a.png").write_bytes(png(9))
    place.write_rows([{"text": "a", "photo": "a.png"}])
    place.run(images="photo").start()
    assert body.encode() not in place.ledger.read_bytes()
    assert place.records()[0]["photo"] == "a.png"
    held = place.out.with_name("bytes.jsonl")
    place.run([{"text": "a", "photo": png(9)}], images="photo", out=held).start()
    assert Path(f"{held}.ledger").read_bytes().count(body.encode()) == 1
    assert held.read_text().count(body) == 1


def test_a_file_that_changed_is_asked_again_and_one_that_was_only_touched_is_not(
    place: Place, simulator: Simulator
) -> None:
    for number in range(3):
        place.input.with_name(f"{number}.png").write_bytes(png(number))
    place.write_rows([{"text": "a", "photo": f"{number}.png"} for number in range(3)])
    assert place.run(images="photo").start().sent == 3
    place.input.with_name("0.png").write_bytes(png(0))
    place.input.with_name("1.png").write_bytes(png(100))
    assert place.run(images="photo").start().sent == 1
    assert simulator.requests[-1].body["messages"][-1]["content"][1]["image_url"]["url"] == data_url(png(100))
    place.input.with_name("1.png").write_bytes(png(1))
    assert place.run(images="photo").start().sent == 0  # as it was before, and paid for


def test_equal_images_under_two_names_are_asked_once_where_that_is_wanted(place: Place) -> None:
    for name in ("a", "b"):
        place.input.with_name(f"{name}.png").write_bytes(png())
    place.write_rows([{"text": "same", "photo": "a.png"}, {"text": "same", "photo": "b.png"}])
    assert place.run(images="photo", dedupe=True).start().sent == 1


def test_other_columns_of_images_are_another_run(place: Place) -> None:
    rows = [{"text": "a", "photo": ADDRESS, "other": ADDRESS}]
    place.run(rows, images="photo").start()
    with pytest.raises(Exception, match="images"):
        place.run(rows, images="other").start()
    assert place.run(rows, images=["photo"]).start().sent == 0


def test_a_retry_reads_the_file_wherever_it_works(
    place: Place, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.input.with_name("a.png").write_bytes(png())
    place.write_rows([{"text": "a", "photo": "a.png"}])
    place.run(images="photo").start()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert Run.retry(place.out, "row=0").start().sent == 1
    assert simulator.requests[1].body == simulator.requests[0].body


@pytest.mark.parametrize("how", ["changed", "deleted", "another where one works"])
def test_a_retry_sends_no_other_file_than_the_run_did_and_says_so(
    place: Place, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    photo = place.input.with_name("a.png")
    photo.write_bytes(png())
    place.write_rows([{"text": "a", "photo": "a.png"}, {"text": "b", "photo": ADDRESS}])
    place.run(images="photo").start()
    photo.unlink()
    if how == "changed":
        photo.write_bytes(png(7))
    elif how != "deleted":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "a.png").write_bytes(png(9))
        monkeypatch.chdir(tmp_path / "elsewhere")
    before = place.records()
    report = Run.retry(place.out, "row<2").start()
    assert (report.sent, len(simulator.requests), report.completions) == (1, 3, 2)
    [cause] = report.unreplaced
    said = (
        "there is no file 'a.png'" if how == "deleted" else "image: a.png has changed since the run read it"
    )
    assert (cause.count, cause.row, cause.kind) == (1, 0, "invalid_input")
    assert said in cause.error.message
    assert said in str(report)
    assert exit_of_start(report) == Exit.SOME_FAILED
    assert place.records() == before


def test_a_file_that_the_run_could_not_read_is_sent_by_a_retry(place: Place) -> None:
    place.input.with_name("b.png").write_bytes(png())
    place.write_rows([{"text": name, "photo": f"{name}.png"} for name in "ba"])
    assert place.run(images="photo").start().failures == 1
    place.input.with_name("a.png").write_bytes(png())
    report = Run.retry(place.out, failed=True).start()
    assert (report.sent, report.completions, report.unreplaced) == (1, 2, [])


def test_what_was_asked_is_shown_without_what_is_in_it(place: Place) -> None:
    rows = [{"text": "a", "photo": png()}, {"text": "b", "photo": ADDRESS}]
    shown = place.run(rows, images="photo").dry_run().prompts
    assert [one.prompt[0]["content"][1] for one in shown] == [
        {"type": "image_url", "image_url": "bytes"},
        {"type": "image_url", "image_url": ADDRESS},
    ]


def test_tokens_of_images_are_estimated_as_they_are_counted(place: Place) -> None:
    rows = [{"text": f"row {number}", "photo": png(side=28 * number)} for number in range(1, 5)]
    run = place.run(rows, images="photo")
    assert run.dry_run().input_tokens == run.start().input_tokens == 1 + 4 + 9 + 16 + 4 * (4 + 2)


# --- folders ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    for name in ("b.png", "a.PNG", "sub/c.png", ".hidden.png", "notes.txt"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(len(name)))
    return "photos"


def test_a_folder_of_images_is_an_input(place: Place, folder: str) -> None:
    summary = place.run(folder, prompt="Caption {{ name }}.", images="file").start()
    assert summary.completions == 3
    assert [(record["file"], record["name"], record["folder"]) for record in place.records()] == [
        ("photos/a.PNG", "a.PNG", "photos"),
        ("photos/b.png", "b.png", "photos"),
        ("photos/sub/c.png", "c.png", "photos/sub"),
    ]
    assert place.answers()[0] == "Echo: Caption a.PNG."


def test_a_glob_and_single_files_are_too(place: Place, folder: str) -> None:
    run = place.run([f"{folder}/*.png", f"{folder}/sub/c.png"], prompt="Caption.", images="file")
    run.start()
    assert [record["file"] for record in place.records()] == ["photos/b.png", "photos/sub/c.png"]


def test_folders_that_a_glob_matches_are_named(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    (Path(folder) / "sub" / "more").mkdir()
    assert open_source(f"{folder}/*.png").total == 1
    assert "photos/**/*.png" not in caplog.text
    Path(folder, "notes.txt").unlink()
    assert open_source(f"{folder}/*").total == 2
    assert "'photos/*' matches folders too, which are left out: photos/sub; what is in folders" in caplog.text
    assert "is matched by 'photos/**/*'" in caplog.text
    caplog.clear()
    assert open_source(f"{folder}/**/*").total == 3
    assert caplog.text == ""
    with pytest.raises(
        InputError, match=r"no file matches 'photos/sub/m\*', but 1 folder \(what .* 'photos/sub/\*\*/\*'"
    ):
        open_source(f"{folder}/sub/m*")


@pytest.mark.parametrize("which", ["{}", "{}/*", "{}/**/*"])
def test_files_of_other_kinds_are_left_out_and_said(
    folder: str, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    for name in ("scan.tiff", "scan2.TIFF"):
        Path(folder, name).write_bytes(b"II*\0")
    assert open_source(which.format(folder)).total == (2 if which == "{}/*" else 3)
    assert (
        f"{which.format(folder)}: 3 files are left out: .tiff (2), .txt (1); sent are .png, " in caplog.text
    )


@pytest.mark.parametrize("name", ["a.tiff", "a.BMP", "a.mp4"])
def test_a_file_of_media_that_cannot_be_sent_is_called_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        InputError, match=rf"no {Path(name).suffix.lower()} can be sent .*convert it; sent are .png"
    ):
        open_source(tmp_path / name)


def test_a_prompt_for_files_is_proposed_in_words(place: Place, folder: str) -> None:
    with pytest.raises(InputError, match=r"give a prompt, for example 'Describe what is in it.'"):
        place.run(folder, prompt=None, images="file").start()


def test_names_of_files_alone_are_not_sent(place: Place, folder: str) -> None:
    with pytest.raises(InputError, match=r"nothing sends the files \(send them: images=\['file'\]\)"):
        place.run(folder, prompt="Caption {{ file }}")
    (place.input.parent / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty is a directory with no image.*\.jsonl"):
        place.run("empty", prompt="x", images="file")


def test_whoever_writes_a_files_name_into_a_prompt_is_told(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mistill"):
        place.run([{"photo": "a.png", "text": "b"}], prompt="Caption {{ photo }}").start()
    assert "from the column 'photo'; to send the file itself: images=['photo']" in caplog.text
    assert simulator.answered == 1


# --- templates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ({"bytes": b"x", "path": "a.png"}, r"tojson.*images=\['photo'\]"),
        (png(side=300), r"an image goes along with images=\['photo'\]"),
        (b"\x00\x01", r"holds bytes.*images=\['photo'\]"),
        (["a", "b"], r"join\(', '\) writes its items, \| tojson"),
        ({"a": 1}, r"tojson writes it as JSON"),
    ],
)
def test_what_has_no_text_form_is_an_error_that_says_what_to_write(
    place: Place, simulator: Simulator, value: Any, hint: str
) -> None:
    with pytest.raises(InputError, match=rf"column 'photo'.*{hint}"):
        place.run([{"photo": value}], prompt="Caption {{ photo }}").start()
    assert simulator.requests == []


def test_the_records_of_a_ledger_are_the_rows_as_they_were(place: Place) -> None:
    place.run([{"text": "a", "photo": png()}], images="photo").start()
    with LedgerReader(place.ledger) as reader:
        [row] = reader.rows()
    assert row.record == b'{"text":"a","photo":"' + b64(png()).encode() + b'"}'


def test_an_answer_stays_when_its_file_is_gone(place: Place) -> None:
    for name in "abc":
        place.input.with_name(f"{name}.png").write_bytes(png(ord(name)))
    place.write_rows([{"text": name, "photo": f"{name}.png"} for name in "abc"])
    place.run(images="photo").start()
    before = place.records()
    for gone in "ab":  # the first row too, which else would say that all rows are wrong
        place.input.with_name(f"{gone}.png").unlink()
        report = place.run(images="photo").start()
        assert (report.sent, report.completions, report.failures) == (0, 3, 0)
        assert place.records() == before
    place.write_rows([{"text": name, "photo": f"{name}.png"} for name in "abcd"])
    assert place.run(images="photo").start().causes[0].row == 3  # it was never answered
    for name in "abd":
        place.input.with_name(f"{name}.png").write_bytes(png(ord(name)))
    report = place.run(images="photo").start()
    assert (report.sent, report.completions) == (1, 4)


def test_a_dry_run_after_a_start_looks_at_the_files_anew(place: Place, tmp_path: Path) -> None:
    image = tmp_path / "a.png"
    image.write_bytes(png())
    run = place.run([{"text": "see", "photo": str(image)}], images="photo")
    assert run.start().completions == 1
    image.unlink()
    assert (run.dry_run().asked, run.dry_run().refused) == (0, 1)


def test_conversations_have_what_went_along_or_are_left_out(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As it was sent: what a file has become since was never answered."""
    for name in ("same", "gone", "other"):
        place.input.with_name(f"{name}.png").write_bytes(png(1))
    rows = [{"text": name, "photo": f"{name}.png"} for name in ("same", "gone", "other")]
    place.write_rows([*rows, {"text": "whole", "photo": b64(png(2))}, {"text": "far", "photo": ADDRESS}])
    place.run(images="photo").start()
    place.input.with_name("gone.png").unlink()
    place.input.with_name("other.png").write_bytes(png(3))
    to = tmp_path / "sft.jsonl"
    assert export_run(place.out, to, as_="chat").records == 3
    lines = [json.loads(line)["messages"][0]["content"] for line in to.read_text().splitlines()]
    assert [(text["text"], image["image_url"]["url"]) for text, image in lines] == [
        ("same", data_url(png(1))),
        ("whole", data_url(png(2))),
        ("far", ADDRESS),
    ]
    assert "2 rows with a file that is not there" in caplog.text


def test_a_column_goes_along_once(place: Place) -> None:
    with pytest.raises(InputError, match="images: the column 'photo' is named twice"):
        place.run([{"text": "a", "photo": png()}], images=["photo", "photo"])
