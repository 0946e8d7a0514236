"""The kinds of runs: what each asks of a row, in a file of its own. A model says by its ``kind`` which it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mistill.runs.kinds.chat import ChatKind
from mistill.runs.kinds.embedding import EmbeddingKind
from mistill.runs.kinds.kind import Kind

KINDS: Final[Mapping[str, type[Kind[Any]]]] = {
    "chat": ChatKind,
    "embedding": EmbeddingKind,
}
