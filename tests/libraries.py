"""Libraries that a test may need and an installation may lack."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

_INSTALL = {
    "aiohttp": "mistill[simulator]",
    "PIL": "pillow",
    "adlfs": "mistill[remote]",
    "ray": "mistill[ray]",
    "duckdb": "mistill[sql]",
    "fsspec": "mistill[remote]",
    "huggingface_hub": "mistill[remote]",
    "moto": "moto[server]",
    "instructor": "mistill[instructor]",
    "openpyxl": "mistill[excel]",
    "playwright": "playwright",
    "psycopg": "mistill[sql]",
    "pyarrow": "mistill[arrow]",
    "s3fs": "mistill[remote]",
    "vl_convert": "mistill[report]",
}


def library(name: str) -> Any:
    """The library, by the name of its module; where it is missing, the test is skipped and says what to install."""
    package = name.partition(".")[0]
    return pytest.importorskip(name, reason=f"needs pip install '{_INSTALL.get(package, package)}'")


def need_modules(*names: str) -> None:
    """Skips the test where one of them is missing that another process will need; none is loaded."""
    for name in names:
        if find_spec(name) is None:
            pytest.skip(f"needs pip install '{_INSTALL.get(name, name)}'")


def need_library_of(file: str) -> None:
    """Skips the test where the library is missing that a file of this name, or format, needs."""
    if file.endswith(("parquet", "arrow", "feather", "zst")):
        library("pyarrow")
