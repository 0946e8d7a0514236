"""What files beside an output are called."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from mistill.addresses import scheme_of, shown
from mistill.datasets.formats import data_suffix


def named_beside(output: str, ending: str) -> Path:
    """A file of this machine that is called as an output is, with ``ending`` for the suffix that says its format:
    beside it; in the working directory where the output has an address."""
    path = Path(output)
    if scheme_of(output) is not None:
        place, _, parameters = shown(output).partition("?")
        table = re.search(r"(?:^|&)table=([^&]*)", parameters)
        name = place.rstrip("/").rpartition("/")[2] if table is None else unquote(table[1]).rpartition(".")[2]
        path = Path(re.sub(r'[/\\"]', "", name) or "output")
    return path.with_name(path.name.removesuffix(data_suffix(path.name) or "") + ending)
