"""What importing the framework's class says where something that it needs is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mistill.extras import install_command

pytest.importorskip("distilabel", reason="distilabel is an extra: pip install 'mistill[distilabel]'")


@pytest.mark.parametrize(
    "missing", ["distilabel", "requests", "pyarrow", "datasets", "distilabel.models.llms.base"]
)
def test_the_import_error_names_what_is_missing(missing: str) -> None:
    code = f"""
import sys
sys.modules[{missing!r}] = None
try:
    import mistill.integrations.distilabel
except ImportError as error:
    print(error)
"""
    words = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    start = "mistill.integrations.distilabel needs distilabel, which cannot be imported: "
    assert words.startswith(start)
    assert missing in words.removeprefix(start)
    assert install_command("distilabel") in words
