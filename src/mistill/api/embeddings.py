"""Wire structs of Mistral's embeddings: what goes out, what comes back. Pure data, no network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from mistill.api.decoding import Incoming, is_error, tolerant_decoder
from mistill.api.operation import Operation
from mistill.api.usage import UsageInfo

Dtype: TypeAlias = Literal["float", "int8", "uint8", "binary", "ubinary"]

MAX_TEXTS = 256
"""What one request to Mistral may hold; more is refused, as is more than `MAX_TOKENS`. Source: the client rig-core,
which tried it (https://docs.rs/rig-core, ``providers::mistral::embedding``)."""
MAX_TOKENS = 16_384


class EmbeddingParameters(Struct, frozen=True, omit_defaults=True):
    """Everything of a request but the model and the texts. ``None`` leaves the server's default."""

    output_dimension: int | None = None
    output_dtype: Dtype | None = None


class Embedding(Incoming, frozen=True, gc=False):
    """One vector, as JSON. ``index``: which text it is of; where there is none, the order says it."""

    ESSENTIAL = frozenset({"index"})  # one that cannot be read is not the same as none

    embedding: Raw
    index: int | None = None


class EmbeddingResponse(Incoming, frozen=True, gc=False):
    """A vector for each text of the request, and the tokens of all texts together. With an ``error`` it is none."""

    data: list[Embedding]
    id: str | None = None
    model: str | None = None
    usage: UsageInfo | None = None
    error: Any = None


class EmbeddingTemplate:
    """A request for embeddings but for its texts, encoded once. ``encode(texts)`` is the body."""

    def __init__(self, model: str, parameters: EmbeddingParameters) -> None:
        fields: dict[str, Any] = {"model": model} | msgspec.to_builtins(parameters)
        self._head = msgspec.json.encode(fields)[:-1] + b',"input":'

    def encode(self, texts: Sequence[str]) -> bytes:
        return self._head + msgspec.json.encode(texts) + b"}"


decode_embeddings = tolerant_decoder(EmbeddingResponse)


def _missing(response: EmbeddingResponse) -> str | None:
    return None if response.data else "the answer has no vectors"


def _gave_up(response: EmbeddingResponse) -> Any:
    return response.error if response.error is not None and is_error(response.error) else None


# 256 vectors of 3,072 numbers, each written with all its digits, are 17 MB.
EMBEDDINGS = Operation("/v1/embeddings", decode_embeddings, _missing, _gave_up, max_bytes=64 * 2**20)

_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_integers: Callable[[Raw], Any] = msgspec.json.Decoder(list[int]).decode


def decode_vector(raw: Raw, dtype: Dtype | None) -> list[float]:
    """The numbers of a vector: integers where the dtype is one of integers.

    Raises:
        msgspec.DecodeError: it is no list of such numbers.
    """
    return _decode_floats(raw) if dtype in (None, "float") else _decode_integers(raw)
