"""The scripts in examples/ do what they say, against the simulator."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.runs.test_attachments import png

from mistill.simulator import Simulator

EXAMPLES = Path(__file__).parents[1] / "examples"


def lines_of_code(script: Path) -> int:
    """But for blank ones, comments and docstrings."""
    text = re.sub(r'""".*?"""', "", script.read_text("utf-8"), flags=re.DOTALL)
    return sum(1 for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#"))


def run_example(name: str, *arguments: str) -> str:
    script = EXAMPLES / name
    ended = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    assert f" {lines_of_code(script)} lines." in script.read_text("utf-8").partition("\n")[0]
    return ended.stdout


def test_images_of_a_folder_are_captioned(tmp_path: Path, simulator: Simulator) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("dune", "lake", "pier"):
        (photos / f"{name}.png").write_bytes(png(len(name)))
    out = tmp_path / "captions.jsonl"
    said = run_example("caption_images.py", str(photos), str(out), simulator.url)
    assert "3 rows: 3 to ask" in said
    assert "3 rows: 3 answered" in said
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert [record["name"] for record in records] == ["dune.png", "lake.png", "pier.png"]
    assert all(isinstance(record["tags"], list) and "caption" in record for record in records)
