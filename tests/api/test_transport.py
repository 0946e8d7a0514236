"""What loading the transport leaves behind: nothing."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("own", [None, "1"])
def test_the_environment_is_as_it_was(own: str | None) -> None:
    given = {} if own is None else {"MIMALLOC_ALLOW_THP": own}
    code = "import os, mistill.api.client; print(os.environ.get('MIMALLOC_ALLOW_THP'))"
    told = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | given, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == str(own)
