"""The kinds of runs: what each asks of a row, in a file of its own. A model says by its ``kind`` which it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from mistill.errors import InputError
from mistill.kinds.chat import ChatKind
from mistill.kinds.embedding import EmbeddingKind
from mistill.kinds.kind import Kind

KINDS: Final[Mapping[str, type[Kind[Any]]]] = {
    "chat": ChatKind,
    "embedding": EmbeddingKind,
}


def kind_of(llm: object) -> type[Kind[Any]]:
    """The kind of a run that ``llm`` answers.

    Raises:
        InputError: it is no model that a run knows.
    """
    kind = KINDS.get(getattr(llm, "kind", ""))
    if kind is None:
        raise InputError(
            f"llm is {type(llm).__name__}, which no kind of run is for",
            hint=f"a MistralLLM or MistralEmbeddings; a model of your own says by its `kind` what it answers: "
            f"{', '.join(KINDS)}",
        )
    return kind
