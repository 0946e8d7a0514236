"""What installs an extra of this package, by where the package came from: PyPI, a clone, a wheel, a repository."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_NAME = "mistill"


def install_command(extra: str) -> str:
    """The command, such as ``pip install 'mistill[arrow]'``, or ``pip install -e '.[arrow]'`` in a clone."""
    try:
        # Of PEP 610; what came from an index has none.
        text = distribution(_NAME).read_text("direct_url.json")
        origin: dict[str, Any] = json.loads(text) if text else {}
    except (PackageNotFoundError, ValueError):
        origin = {}
    return command_for(origin, extra, Path.cwd())


def command_for(origin: dict[str, Any], extra: str, directory: Path) -> str:
    """As `install_command`.

    Args:
        origin: the ``direct_url.json`` of the installed package; empty where it came from an index.
        directory: where the command is to be run.
    """
    url = str(origin.get("url", ""))
    if "vcs_info" in origin:
        target = f"{_NAME}[{extra}] @ {origin['vcs_info'].get('vcs', 'git')}+{url}"
    elif urlsplit(url).scheme == "file":
        path = Path(unquote(urlsplit(url).path))
        if not path.exists():  # a clone or wheel that is gone
            return f"pip install '{_NAME}[{extra}]'"
        place = "." if path == directory else str(path)
        target = f"{place}[{extra}]"
    elif url:
        target = f"{_NAME}[{extra}] @ {url}"
    else:
        target = f"{_NAME}[{extra}]"
    editable = "-e " if origin.get("dir_info", {}).get("editable") else ""
    return f"pip install {editable}{shlex.quote(target)}"
