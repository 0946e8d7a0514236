"""Many texts in one request: what goes together, what becomes of each, and what a refused request is sent again as."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Any, Generic

from msgspec import Struct

from mistill.api.client import HTTPAnswer
from mistill.api.operation import R
from mistill.api.usage import Usage
from mistill.characters import whole_characters
from mistill.delivery.dispatcher import AnswerPart, Delivered, Dispatcher, Request, Send
from mistill.delivery.retry import classify
from mistill.errors import BadRequest, InputError, MistillError
from mistill.llms.completions import part_completions
from mistill.llms.generation import Server
from mistill.llms.types import Outcome

_COST_DIGITS = 15
_BYTES_PER_TOKEN = 3  # on the safe side for English; a batch that the server still finds too large is halved


class TextAnswer(Struct, frozen=True, gc=False):
    """What an answer says of one text.

    Attributes:
        body: what a ledger keeps of it.
        value: what the body holds, where that is wanted.
    """

    body: bytes
    value: Any = None


class BatchedCall(ABC, Generic[R]):
    """Everything of a call but its texts, of which many go in one request. Safe to share by tasks and threads.

    Args:
        dispatcher: sends its requests. ``server``: what answers them.
        encode: the texts of one request → its body.
        max_texts: of one request.
        max_tokens: of one request, as estimated from the length of its texts; ``None``: any number.
    """

    def __init__(
        self,
        dispatcher: Dispatcher[R],
        server: Server,
        encode: Callable[[Sequence[str]], bytes],
        *,
        max_texts: int,
        max_tokens: int | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.server = server
        self.max_texts = max_texts
        self._encode = encode
        self._max_tokens = max_tokens

    @abstractmethod
    def read(self, response: R, texts: int) -> Sequence[TextAnswer | MistillError]:
        """What an answer says of each of its texts, in their order, or the error of one of which it says nothing.

        Where it says nothing of any, the attempt has failed: it is repeated, and maybe billed.

        Raises:
            MalformedAnswer: nothing tells what of it is of which text.
        """

    def check(self, text: Any, index: int | None = None) -> str:
        """The text as it may be sent: a plain ``str``, with U+FFFD for each half of a character.

        Raises:
            InputError: it is no string, or is empty.
        """
        name = "the text" if index is None else f"text {index}"
        if not isinstance(text, str):
            raise InputError(f"{name} is {type(text).__name__}, not a string", index=index)
        if not text:
            raise InputError(f"{name} is empty", index=index)
        return whole_characters(text)

    def batch_size(self, texts: Iterable[str]) -> int:
        """How many of the first texts fit one request; a text that does not fit stands alone."""
        tokens = size = 0
        for text in islice(texts, self.max_texts):
            tokens += _estimate(text)
            if size and self._max_tokens is not None and tokens > self._max_tokens:
                break
            size += 1
        return size

    def share_of(self, text: str) -> float:
        """The part of a request that a text takes, where others go with it."""
        by_tokens = 0.0 if self._max_tokens is None else min(1.0, _estimate(text) / self._max_tokens)
        return max(1 / self.max_texts, by_tokens)

    def batches(self, texts: Sequence[str]) -> Iterator[range]:
        """Consecutive texts, as many a request as fit."""
        start = 0
        while start < len(texts):
            size = self.batch_size(texts[index] for index in range(start, len(texts)))
            yield range(start, start + size)
            start += size

    async def answer(self, texts: Sequence[str], send: Send[R]) -> list[Outcome]:
        """One outcome for each of the texts, see `parts`."""
        found: list[Outcome] = []
        async for _, outcomes in self.parts(texts, send):
            found += outcomes
        return found

    async def parts(self, texts: Sequence[str], send: Send[R]) -> AsyncGenerator[tuple[range, list[Outcome]]]:
        """The outcomes of texts that are sent together, with their places, in order and as they come.

        A refused request is sent again in halves, until what is refused stands alone. A request's attempts are counted
        with its first text.

        Raises only what ends the whole call: a refused key, a stop, a broken ledger.
        """
        refused = 0
        parts = [range(len(texts))]
        while parts:
            places = parts.pop()
            try:
                delivered = await send(self._request([texts[place] for place in places], places))
            except MistillError as error:
                if classify(error).fatal:
                    raise
                if isinstance(error, BadRequest) and len(places) > 1:
                    refused += error.attempts
                    middle = len(places) // 2
                    parts += [places[middle:], places[:middle]]
                    continue
                outcomes = _failures(error, len(places), refused + error.attempts)
            else:
                outcomes = _outcomes(delivered, refused + delivered.attempts)
            refused = 0
            yield places, outcomes

    def _request(self, texts: Sequence[str], places: Sequence[int]) -> Request:
        weights = [_estimate(text) for text in texts]

        def split(answer: HTTPAnswer[R]) -> list[AnswerPart | MistillError]:
            return self.split(answer, weights)

        return Request(self._encode(texts), 0, places, split, weights)

    def split(self, answer: HTTPAnswer[R], weights: Sequence[int]) -> list[AnswerPart | MistillError]:
        """An answer's part for each of the texts that it was asked for, or why it has none for the text.

        Args:
            weights: of the texts, none of them 0: about how long each is. What the answer took and cost is shared out
                by them, among the texts that it answers.

        Raises:
            MistillError: it has a part for none of them.
        """
        found = self.read(answer.response, len(weights))
        errors = [one for one in found if isinstance(one, MistillError)]
        if len(errors) == len(weights):
            raise errors[0]
        shared = [
            0 if isinstance(one, MistillError) else weight for one, weight in zip(found, weights, strict=True)
        ]
        return [
            one if isinstance(one, MistillError) else AnswerPart(one.body, usage, cost, one.value)
            for one, (usage, cost) in zip(found, _shares(answer.usage, answer.cost, shared), strict=True)
        ]


def _failures(error: MistillError, texts: int, attempts: int) -> list[Outcome]:
    return [_failure(error, 0 if place else attempts) for place in range(texts)]


def _failure(error: MistillError, attempts: int) -> Outcome:
    return Outcome(completions=(None,), error=error, attempts=attempts)


def _outcomes(delivered: Delivered[Any], attempts: int) -> list[Outcome]:
    outcomes: list[Outcome] = []
    for place, completion in enumerate(part_completions(delivered)):
        counted = 0 if place else attempts
        if isinstance(completion, MistillError):
            outcomes.append(_failure(completion, counted))
            continue
        outcomes.append(
            Outcome(completions=(completion,), usage=completion.usage, attempts=counted, cost=completion.cost)
        )
    return outcomes


def _estimate(text: str) -> int:
    """The tokens of a text, at most, as a rule."""
    return len(text.encode()) // _BYTES_PER_TOKEN + 1


def _shares(usage: Usage, cost: float | None, weights: Sequence[int]) -> Iterator[tuple[Usage, float | None]]:
    """What one request took, shared out by weight, so that the sums are what was billed."""
    total = sum(weights) or 1  # no text, no share
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens)
    for start, end in pairwise(accumulate(weights, initial=0)):
        share = (count * end // total - count * start // total for count in counts)
        part = None if cost is None else round(cost * end / total - cost * start / total, _COST_DIGITS)
        yield Usage(*share), part
