"""Wire structs of the list of models: ``GET /v1/models``. Pure data, no network."""

from __future__ import annotations

from typing import Any

from mistill.api.decoding import Incoming, is_error, tolerant_decoder

MODELS_PATH = "/v1/models"


class ModelCard(Incoming, frozen=True, gc=False):
    """What the server says of a model; servers differ in how much.

    Attributes:
        id: what a request calls it. ``aliases``: its other names.
        max_context_length: tokens of prompt and answer together.
        capabilities: as the server has them; with Mistral an object of booleans: ``{"completion_chat": true, …}``.
        deprecation: from when on it will not be served: a date and time in ISO 8601.
        deprecation_replacement_model: what comes in its place.
    """

    id: str
    description: str | None = None
    max_context_length: int | None = None
    aliases: list[str] | None = None
    capabilities: Any = None
    deprecation: str | None = None
    deprecation_replacement_model: str | None = None
    owned_by: str | None = None


class _ModelList(Incoming, frozen=True, gc=False):
    data: list[ModelCard]
    error: Any = None


_decode = tolerant_decoder(_ModelList)


def decode_models(raw: bytes) -> list[ModelCard]:
    """The body of a list of models → its models."""
    found = _decode(raw)
    if is_error(found.error):
        raise ValueError("the list of models has an error beside it")
    return found.data
