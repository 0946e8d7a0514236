"""The smaller endpoints: the list of models, and embeddings."""

from __future__ import annotations

import secrets
from functools import cache

from mistill.simulator import refusals
from mistill.simulator.drafts import count_tokens
from mistill.simulator.payloads import Json
from mistill.simulator.requests import EmbeddingRequest
from mistill.simulator.settings import Settings
from mistill.simulator.vectors import encoded, vector

_CREATED = 1_756_746_619


def find(path: str, settings: Settings) -> Json | None:
    """What ``GET path`` shows: the models, or one of them; ``None`` for a path that is neither."""
    if path == "/v1/models":
        cards = [model_card(model, settings.max_context_tokens) for model in settings.models]
        return {"object": "list", "data": cards}
    name = path.removeprefix("/v1/models/")
    if name != path and (name in settings.models or settings.any_model):
        return model_card(name, settings.max_context_tokens)
    return None


@cache
def model_card(model: str, max_context_tokens: int) -> Json:
    embeds = "embed" in model
    return {
        "id": model,
        "object": "model",
        "created": _CREATED,
        "owned_by": "mistralai",
        "capabilities": {
            "completion_chat": not embeds,
            "function_calling": not embeds,
            "reasoning": "magistral" in model,
            "completion_fim": "codestral" in model and not embeds,
            "fine_tuning": False,
            "vision": "pixtral" in model,
            "ocr": False,
            "classification": False,
            "moderation": False,
            "audio": "voxtral" in model,
            "audio_transcription": False,
        },
        "name": model,
        "description": None,
        "max_context_length": max_context_tokens,
        "aliases": [],
        "deprecation": None,
        "deprecation_replacement_model": None,
        "default_model_temperature": None if embeds else 0.3,
        "type": "base",
    }


def embeddings(request: EmbeddingRequest, settings: Settings) -> Json:
    """A vector for each text.

    Raises:
        RefusedRequest: too many texts, or too many tokens.
    """
    texts = [request.input] if isinstance(request.input, str) else request.input
    dimension = request.output_dimension or settings.embedding_dimension
    tokens = sum(count_tokens(text) for text in texts)
    if len(texts) > settings.embedding_batch_texts:
        raise refusals.too_many_inputs()
    if tokens > settings.embedding_batch_tokens:
        raise refusals.too_many_tokens()
    return {
        "id": secrets.token_hex(16),
        "object": "list",
        "model": settings.answered_by.get(request.model, request.model),
        "data": [
            {
                "object": "embedding",
                "embedding": encoded(vector(text, dimension), request.output_dtype, request.encoding_format),
                "index": index,
            }
            for index, text in enumerate(texts)
        ],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }
