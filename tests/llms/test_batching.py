"""Many texts in one request: each has one end, and every attempt and every token is counted once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from mistill.api.client import HTTPAnswer
from mistill.api.dialects import MISTRAL
from mistill.api.tariff import Tariff
from mistill.api.usage import Usage, UsageInfo
from mistill.delivery.dispatcher import Delivered, Request
from mistill.errors import BadRequest, MalformedAnswer, MistillError, ServerError
from mistill.llms.batching import BatchedCall, TextAnswer
from mistill.llms.generation import Server

REFUSED, BROKEN, LEFT_OUT = "refused", "broken", "left out"
TOKENS = 101


class Lengths(Struct):
    """An answer: the length of each text."""

    lengths: list[int | None]
    model: str = "model"
    id: str = "id"
    usage: UsageInfo | None = None


class LengthCall(BatchedCall[Any]):
    def read(self, response: Lengths, texts: int) -> list[TextAnswer | MistillError]:
        assert len(response.lengths) == texts
        return [
            MalformedAnswer("left out") if length is None else TextAnswer(str(length).encode(), length)
            for length in response.lengths
        ]


class Model:
    """Answers with lengths; refuses what is too large or has a refused text, and fails at a broken one."""

    def __init__(self, max_texts: int) -> None:
        self.max_texts = max_texts
        self.attempts = 0
        self.good = 0

    async def send(self, request: Request) -> Delivered[Any]:
        texts = msgspec.json.decode(request.body, type=list[str])
        assert len(texts) == len(request.places)
        error: MistillError | None = None
        if len(texts) > self.max_texts or REFUSED in texts:
            error = BadRequest("refused", status=400)
        elif BROKEN in texts:
            error = ServerError("broken", status=500)
        attempts = 3 if isinstance(error, ServerError) else 1
        self.attempts += attempts
        if error is not None:
            error.attempts = attempts
            raise error
        lengths = [None if text == LEFT_OUT else len(text) for text in texts]
        self.good += any(lengths)
        answer = HTTPAnswer(Lengths(lengths), b"", None, None, 0.0, Usage(TOKENS), None)
        assert request.split is not None
        try:
            return Delivered(answer, 1, (), request.split(answer))
        except MalformedAnswer as error:
            assert lengths == [None] * len(texts)
            error.attempts = 1
            raise


def call(max_texts: int = 8, max_tokens: int | None = None) -> LengthCall:
    dispatcher = cast("Any", None)  # sends are given
    server = Server("model", MISTRAL, Tariff("model"))
    return LengthCall(dispatcher, server, msgspec.json.encode, max_texts=max_texts, max_tokens=max_tokens)


TEXTS = st.lists(st.sampled_from([REFUSED, BROKEN, LEFT_OUT]) | st.text(min_size=1, max_size=9), min_size=1)


@given(TEXTS, st.integers(1, 40))
def test_every_text_has_one_end_and_every_attempt_is_counted_once(texts: list[str], max_texts: int) -> None:
    model = Model(max_texts)
    outcomes = asyncio.run(call().answer(texts, model.send))
    assert len(outcomes) == len(texts)
    assert sum(outcome.attempts for outcome in outcomes) == model.attempts
    assert sum(outcome.usage.input_tokens for outcome in outcomes) == TOKENS * model.good
    for text, outcome in zip(texts, outcomes, strict=True):
        (completion,) = outcome.completions
        assert (completion is None) == (outcome.error is not None)
        if completion is not None:
            assert (completion.value, completion.raw) == (len(text), str(len(text)).encode())
        if text == REFUSED:
            assert isinstance(outcome.error, BadRequest)
        elif text not in (BROKEN, LEFT_OUT):
            assert outcome.error is None or isinstance(outcome.error, ServerError)  # one beside it was broken


@given(TEXTS, st.integers(1, 8), st.none() | st.integers(1, 12))
def test_batches_are_all_texts_in_order_and_none_is_too_large(
    texts: Sequence[str], max_texts: int, max_tokens: int | None
) -> None:
    batches = list(call(max_texts, max_tokens).batches(texts))
    assert [place for batch in batches for place in batch] == list(range(len(texts)))
    for batch in batches:
        assert 1 <= len(batch) <= max_texts
        if max_tokens is not None and len(batch) > 1:
            assert sum(len(texts[place].encode()) // 3 + 1 for place in batch) <= max_tokens
