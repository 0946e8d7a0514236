"""What kinds of runs have in common that send one text a row, and the texts of many rows in one request."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import takewhile
from typing import Any, ClassVar

from mistill.api.client import HTTPAnswer
from mistill.api.token_estimate import text_tokens
from mistill.datasets.sources import Row
from mistill.delivery.dispatcher import AnswerPart, Send
from mistill.errors import MistillError
from mistill.kinds.kind import Kind, PendingRow, RequestSize, digest, refuse_unused, warn_of_doubts
from mistill.kinds.options import RunOptions
from mistill.llms.batching import BatchedCall
from mistill.llms.connection import Connection
from mistill.llms.types import Outcome
from mistill.prompts.prompt_template import TextTemplate


class TextKind(Kind[str]):
    """A text for each row; as many together as one request takes.

    A kind of its own says which columns it has, `call_of` and `reader_of`, and sets ``manifest`` and ``reader``.

    Attributes:
        template: makes a row's text.
        call: sends the texts.
    """

    row_columns: ClassVar = ("text",)
    has_texts: ClassVar = False
    unused_options = frozenset(
        {
            "system",
            "num_generations",
            "parameters",
            "row_parameters",
            "flatten",
            "images",
            "documents",
            "audio",
            "prompt_cache",
            "loop_guard",
        }
    )

    def __init__(self, llm: Connection, options: RunOptions) -> None:
        refuse_unused(type(self), options)
        self.template = TextTemplate(options.prompt)
        self.call = call = self.call_of(llm)
        self.dispatcher = call.dispatcher
        self.server = call.server
        self.max_rows_together = call.max_texts
        self.llm_settings = llm.dump()

    @abstractmethod
    def call_of(self, llm: Any) -> BatchedCall[Any]:
        """The call that sends all texts of the run.

        Raises:
            InputError: a setting is wrong.
        """

    def prepare(self, row: Row) -> str:
        if row.index <= 1:
            warn_of_doubts(self.template.doubts(row))
        return self.call.check(self.template.render(row))

    def fingerprint(self, prepared: str) -> bytes:
        return digest(prepared.encode())

    def size_of(self, prepared: str) -> RequestSize:
        return RequestSize(text_tokens(prepared), 0, self.call.share_of(prepared))

    def together(self, ready: Sequence[PendingRow]) -> int:
        max_retries = self.dispatcher.max_retries
        if ready[0].stands_alone(max_retries):
            return 1
        together = takewhile(lambda pending: not pending.stands_alone(max_retries), ready)
        return self.call.batch_size(pending.prepared for pending in together)

    async def answer(self, prepared: Sequence[str], send: Send[Any]) -> Sequence[Outcome]:
        return await self.call.answer(prepared, send)

    def split(self, answer: HTTPAnswer[Any], weights: Sequence[int]) -> list[AnswerPart | MistillError]:
        return self.call.split(answer, weights)
