"""distilabel is an extra; where it is missing, its tests are skipped.

It is imported here first, with warnings off: as it loads, it warns of itself and of how it uses pydantic.
"""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.libraries import library

with warnings.catch_warnings(), contextlib.suppress(ImportError):
    warnings.simplefilter("ignore")
    import distilabel.pipeline
    import distilabel.steps.tasks  # noqa: F401

    import datasets  # noqa: F401

    # Its class has the framework's annotations, which pydantic warns of.
    import mistill.integrations.distilabel  # noqa: F401


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for what the framework keeps of its pipelines, instead of the user's own."""
    monkeypatch.setattr(library("datasets.config"), "HF_DATASETS_CACHE", tmp_path / "datasets")
    # It looks every 2.5 s whether the steps of a pipeline are loaded.
    quick = SimpleNamespace(sleep=lambda seconds: time.sleep(seconds / 50))
    monkeypatch.setattr(library("distilabel.pipeline.base"), "time", quick)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield tmp_path
    # A pipeline that could not start leaves its logging on.
    library("distilabel.utils.logging").stop_logging()
    root.handlers[:] = handlers
    root.setLevel(level)
