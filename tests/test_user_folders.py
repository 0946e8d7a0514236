"""The folders that are a user's: by their variables, else the platform's own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mistill.user_folders import cache_dir, state_dir

Folder = Callable[[], Path]


@pytest.mark.parametrize(("folder", "kind"), [(cache_dir, "CACHE"), (state_dir, "STATE")])
def test_a_variable_moves_a_folder_and_no_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: Folder, kind: str
) -> None:
    other = state_dir if folder is cache_dir else cache_dir
    stays = other()
    monkeypatch.setenv(f"XDG_{kind}_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv(f"MISTILL_{kind}_DIR", str(tmp_path / "own"))
    assert folder() == tmp_path / "own"
    monkeypatch.delenv(f"MISTILL_{kind}_DIR")
    assert folder() == tmp_path / "xdg" / "mistill"
    assert other() == stays


@pytest.mark.parametrize(
    ("platform", "folder", "place"),
    [
        ("linux", cache_dir, ".cache/mistill"),
        ("linux", state_dir, ".local/state/mistill"),
        ("darwin", cache_dir, "Library/Caches/mistill"),
        ("darwin", state_dir, "Library/Application Support/mistill"),
        ("win32", cache_dir, "AppData/Local/mistill/cache"),
        ("win32", state_dir, "AppData/Local/mistill/state"),
    ],
)
def test_the_place_of_each_platform(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, folder: Folder, place: str
) -> None:
    for name in (
        "MISTILL_CACHE_DIR",
        "MISTILL_STATE_DIR",
        "XDG_CACHE_HOME",
        "XDG_STATE_HOME",
        "LOCALAPPDATA",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(sys, "platform", platform)
    assert folder() == tmp_path / place
