"""Secrets that this process has for places stand in no text that is shown."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable
from urllib.parse import quote

import pytest

from mistill.redaction import hide, hide_settings, shown_words, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PGPASSWORD",
        "MISTRAL_API_KEY",
        "AZURE_CLIENT_SECRET",
    ],
)
@pytest.mark.parametrize("secret", ["pa55w", "wJalr/XUtn+FEMI"])
def test_what_the_environment_has_for_a_place_is_hidden(
    name: str, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"refused: {secret}, of me"
    assert shown_words(text) == text
    monkeypatch.setenv(name, secret)
    assert shown_words(text) == "refused: [secret], of me"


def test_what_was_given_is_hidden_however_it_is_written() -> None:
    secret = "tok_of_the_test_of_what_was_given"
    hide(secret)
    basic = b64encode(f"me:{secret}".encode()).decode()
    for form in (secret, secret[:12], secret.encode().hex(), basic, "tok%5Fof%5Fthe%5Ftest%5Fof%5Fwhat"):
        told = without_secrets(f"said {form} back")
        assert "[secret]" in told
        assert form[3:11] not in told


def test_what_a_request_says_who_asks_with_is_hidden_whoever_has_made_it() -> None:
    told = without_secrets(
        "sent 'Authorization': 'Bearer ya29.a0ARrdaM_of_a_role', Bearer of a letter, Basic training"
    )
    assert told == "sent 'Authorization': 'Bearer [secret]', Bearer of a letter, Basic training"


def test_settings_for_a_library_are_secret_by_their_names() -> None:
    hide_settings({"s3": {"secret": "a-s3cr3t-of-settings", "anon": "a-plain-value", "token": __file__}})
    text = f"a-plain-value a-s3cr3t-of-settings {__file__}"
    assert without_secrets(text) == f"a-plain-value [secret] {__file__}"


@pytest.mark.parametrize("secret", ["pässwört1", "ab😀cd😀ef😀gh", "ä{b1c", "ab{cd"])
@pytest.mark.parametrize("escaped", [quote, repr, ascii, json.dumps, lambda text: str(text.encode())])
def test_a_secret_is_hidden_however_its_characters_are_escaped(
    secret: str, escaped: Callable[[str], str]
) -> None:
    hide(secret)
    told = without_secrets(escaped(f"said {secret}, back"))
    assert told == escaped("said [secret], back").replace("%5Bsecret%5D", "[secret]")


def test_a_short_secret_within_a_word_is_a_part_of_that() -> None:
    hide("n0ise")
    assert without_secrets("an0ise an0ise%21 n0ise%21 n0%69se") == "an0ise an0ise%21 [secret]%21 [secret]"


def test_a_secret_of_the_environment_that_is_no_utf_8_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = os.fsdecode(b"pa55w0rd\xff of the test")
    monkeypatch.setenv("PGPASSWORD", secret)
    assert without_secrets(f"refused: {secret}, of me") == "refused: [secret], of me"
