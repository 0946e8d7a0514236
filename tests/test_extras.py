"""What is said where an extra is missing works from where mistill was installed."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mistill.extras import command_for, install_command

ROOT = Path(__file__).parent.parent


def test_from_an_index() -> None:
    assert command_for({}, "arrow", ROOT) == "pip install 'mistill[arrow]'"


@pytest.mark.parametrize(("editable", "flag"), [(True, "-e "), (False, "")])
def test_from_a_clone(tmp_path: Path, editable: bool, flag: str) -> None:
    clone = tmp_path / "a clone"
    clone.mkdir()
    origin: dict[str, Any] = {"url": clone.as_uri(), "dir_info": {"editable": True} if editable else {}}
    assert command_for(origin, "arrow", clone) == f"pip install {flag}'.[arrow]'"
    words = shlex.split(command_for(origin, "arrow", tmp_path))
    assert words[-1] == f"{clone}[arrow]"
    clone.rmdir()
    assert f"{clone}" not in command_for(origin, "arrow", tmp_path)  # it is gone


def test_from_a_wheel_and_a_repository(tmp_path: Path) -> None:
    wheel = tmp_path / "mistill-1.whl"
    wheel.touch()
    assert (
        command_for({"url": wheel.as_uri(), "archive_info": {}}, "arrow", ROOT)
        == f"pip install '{wheel}[arrow]'"
    )
    git = {"url": "https://example.org/mistill.git", "vcs_info": {"vcs": "git", "commit_id": "0"}}
    assert (
        command_for(git, "arrow", ROOT)
        == "pip install 'mistill[arrow] @ git+https://example.org/mistill.git'"
    )


BLOCKED = {
    "arrow": ("pyarrow", "from mistill.datasets.writers import check_target; check_target('a.parquet')"),
    "dedupe": (
        "numpy",
        "from mistill.curation.near_duplicates import dedupe; dedupe([{'embedding': [1.0]}])",
    ),
    "excel": ("openpyxl", "from mistill.datasets.writers import check_target; check_target('a.xlsx')"),
    "simulator": ("aiohttp", "from mistill.simulator import Simulator; Simulator().start()"),
    "instructor": (
        "instructor",
        "from mistill import MistralLLM; MistralLLM(model='m', structured_output=dict(schema=int, mode='tools'))",
    ),
    "local": ("xllamacpp", "from mistill.local import LocalModel; LocalModel().start()"),
    "view": ("aiohttp", "import mistill; mistill.view('.')"),
    "ray": (
        "ray",
        "from mistill.shards.ray_cluster import connected; connected(None).__enter__()",
    ),
    "distilabel": ("distilabel", "import mistill.integrations.distilabel"),
}


@pytest.mark.parametrize("extra", BLOCKED)
def test_without_an_extra_its_words_say_what_installs_it(extra: str) -> None:
    package, use = BLOCKED[extra]
    code = (
        "import sys, importlib.util as u\n"
        f"sys.modules[{package!r}] = None\n"
        f"find = u.find_spec\nu.find_spec = lambda name, *a: None if name == {package!r} else find(name, *a)\n"
        f"try:\n    {use}\nexcept Exception as error: print(error, getattr(error, 'hint', ''))"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True
    )
    assert install_command(extra) in said.stdout, said


def test_the_readme_names_every_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for_users = project["optional-dependencies"].keys() - {
        "all",
        "test",
        "test-all",
        "test-engines",
        "coverage",
        "lint",
        "bench",
    }
    readme = (ROOT / "README.md").read_text()
    assert {name for name in for_users if f"| `{name}` |" not in readme} == set()
    (everything,) = project["optional-dependencies"]["all"]
    assert set(everything.removeprefix("mistill[").removesuffix("]").split(",")) == for_users
