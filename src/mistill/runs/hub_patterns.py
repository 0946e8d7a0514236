"""Which files of a repository at the Hugging Face Hub a pattern names, as the library `datasets` has it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Final

from mistill.datasets.optional_library import OptionalLibrary

_FSSPEC: Final = OptionalLibrary("fsspec", extra="remote")
_NO_DATA: Final = frozenset(
    {
        "README.md",
        "config.json",
        "dataset_info.json",
        "dataset_infos.json",
        "dummy_data.zip",
        "dataset_dict.json",
    }
)
"""Left out unless they are named. Source: ``FILES_TO_IGNORE`` of `datasets.data_files`, 5.2."""


def files_of(pattern: str, there: Sequence[str]) -> list[str]:
    """Those of the files that are there which ``pattern`` names: none that is hidden, or is in a folder that begins
    with ``__``, unless the pattern says so too; ``datasets.data_files.resolve_pattern`` is the model."""
    pattern = pattern.removeprefix("./")
    utils: Any = _FSSPEC.load("pushing to the Hub", "fsspec.utils")
    try:
        fits = re.compile(utils.glob_translate(pattern)).match
    except ValueError:  # a "**" that is a part of a name: it finds no file there either
        return []
    unlisted = _NO_DATA - {PurePosixPath(pattern).name}
    return [
        file
        for file in there
        if fits(file) and PurePosixPath(file).name not in unlisted and _unseen(file) == _unseen(pattern)
    ]


def _unseen(path: str) -> tuple[int, int]:
    """How many parts of it are hidden, and how many folders begin with ``__``."""
    parts = PurePosixPath(path).parts
    return sum(part.startswith(".") for part in parts), sum(part.startswith("__") for part in parts[:-1])
