"""Content chunks from files, bytes and URLs."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mistill.errors import InputError
from mistill.llms import MistralLLM, content
from mistill.llms.content import check_image_url
from mistill.simulator import Simulator

PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
PDF = b"%PDF-1.7 0"
MP3 = b"ID3\x04\x00"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (PNG, "image/png"),
        (b"\xff\xd8\xff\xe0", "image/jpeg"),
        (b"GIF89a", "image/gif"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "image/webp"),
    ],
)
def test_an_images_type_is_known_by_its_bytes(head: bytes, kind: str) -> None:
    assert content.image(head) == {
        "type": "image_url",
        "image_url": {"url": f"data:{kind};base64,{b64(head)}"},
    }


def test_a_file_is_put_into_the_request(tmp_path: Path) -> None:
    path = tmp_path / "cat.txt"  # the name counts for nothing
    path.write_bytes(PNG)
    assert content.image(path) == content.image(str(path)) == content.image(PNG)
    assert content.image(path, detail="low")["image_url"]["detail"] == "low"


@pytest.mark.parametrize("make", [content.image, content.document])
def test_a_url_is_passed_on(make: Callable[[str], dict[str, Any]]) -> None:
    assert "https://example.com/x" in str(make("https://example.com/x"))


def test_a_data_url_is_checked() -> None:
    assert content.image("data:image/png;base64," + b64(PNG)) == content.image(PNG)
    with pytest.raises(InputError, match="not base64"):
        content.image("data:image/png;base64,???")
    with pytest.raises(InputError, match="must be base64"):
        content.image("data:image/png,abc")


def test_a_document_may_have_a_name(tmp_path: Path) -> None:
    path = tmp_path / "paper.pdf"
    path.write_bytes(PDF)
    url = f"data:application/pdf;base64,{b64(PDF)}"
    assert content.document(path) == {
        "type": "document_url",
        "document_url": url,
        "document_name": "paper.pdf",
    }
    assert content.document(PDF, name="x")["document_name"] == "x"
    assert content.document(PDF) == {"type": "document_url", "document_url": url}


@pytest.mark.parametrize("head", [MP3, b"RIFF\0\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"\0\0\0 ftypM4A "])
def test_audio_is_base64_without_more(head: bytes) -> None:
    assert content.audio(head) == {"type": "input_audio", "input_audio": b64(head)}


@pytest.mark.parametrize(
    ("make", "source", "words"),
    [
        (content.image, PDF, "its bytes are application/pdf .what is taken: png, jpeg, webp, gif"),
        (content.image, b"hello", "of no known type"),
        (content.document, PNG, "image/png"),
        (content.audio, PNG, "image/png"),
        (content.image, "no/such/file.png", "cannot be read: No such file"),
        (content.image, 3, "int is no path, bytes or URL"),
    ],
)
def test_what_is_no_such_thing_is_refused(make: Any, source: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make(source)


def test_the_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(PNG + b"0" * 2_000_000)
    for source in (path, path.read_bytes()):
        with pytest.raises(InputError, match=r"1\.9 MiB are more than 1 MiB"):
            content.image(source, max_bytes=1024 * 1024)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("data:image/png;base64," + b64(b"%PDF-1.7 and more"), "its bytes are application/pdf"),
        ("data:text/plain;base64," + b64(b"Hello, I am a text."), "of no known type"),
        ("data:image/png;base64,", "of no known type"),
        ("data:image/png,abc", "must be base64"),
        ("data:nonsense", "must be base64"),
        ("DATA:image/png;base64," + b64(PNG) + "A" * 14_000_000, "are more than 10 MiB"),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_an_image_in_a_message_is_checked_too(
    simulator: Simulator, make_llm: Callable[..., MistralLLM], url: str, words: str, nested: bool
) -> None:
    chunk = {"type": "image_url", "image_url": {"url": url} if nested else url}
    bad = [{"role": "user", "content": [{"type": "text", "text": "?"}, chunk]}]
    with pytest.raises(InputError, match=words) as caught:
        make_llm(model="mistral-medium-latest").generate(["good", bad])
    assert str(caught.value).startswith("input 1: messages[0]: image: ")
    assert simulator.requests == []


@pytest.mark.parametrize("length", range(len(PNG), len(PNG) + 40))
def test_a_good_image_of_any_length_passes(length: int) -> None:
    check_image_url("data:image/png;base64," + b64(PNG.ljust(length, b"0")))


def test_chunks_go_out_as_they_are(simulator: Simulator, make_llm: Callable[..., MistralLLM]) -> None:
    chunks = [content.text("What is this?"), content.image(PNG), content.document(PDF), content.audio(MP3)]
    make_llm(model="mistral-medium-latest").generate([[{"role": "user", "content": chunks}]])
    assert simulator.requests[0].body["messages"] == [{"role": "user", "content": chunks}]
