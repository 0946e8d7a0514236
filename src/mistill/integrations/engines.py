"""A stage of Ray Data, Daft, or any other engine that gives batches of columns: a model between two of its steps.

    from mistill.integrations.engines import Stage

It imports no engine, and needs none; what goes in and comes out are Arrow tables (extra ``arrow``). The actors or
processes in which an engine calls it share a governor (`mistill.delivery.sharing`); ``max_concurrent_requests`` holds
for each of them. There is no ledger: what an engine does again is asked and paid again, see docs/engines.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mistill.characters import whole_characters
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources import Row, open_source
from mistill.delivery.retry import classify
from mistill.errors import InputError, UnusableRow, let_interrupt_pass
from mistill.ledger.error_record import ErrorRecord
from mistill.llms.embeddings import MistralEmbeddings
from mistill.llms.generation import Generation, Prompt
from mistill.llms.mistral import MistralLLM
from mistill.llms.types import Outcome
from mistill.prompts.prompt_template import PromptTemplate
from mistill.prompts.row_errors import row_error
from mistill.records.columns import column_names
from mistill.runs.first_failures import FirstFailures

COLUMNS: Final = ("generation", "finish_reason", "input_tokens", "output_tokens", "cost", "error")


class Stage:
    """Asks a model about each row of a table, and puts what came of it into columns beside the row's own.

    Columns that it adds: ``generation`` (the text; JSON where the model's ``structured_output`` asks for some),
    ``finish_reason``, ``input_tokens`` and ``output_tokens`` (as billed, also of a row that failed), ``cost`` (US
    dollars; null where the model has no known price), ``error`` (``kind: what happened``; null where the row was
    answered). A row that fails costs that row: its ``generation`` is null, and its ``error`` says why. What is wrong
    with all rows is raised, as long as none was answered: later, the engine would lose those that were.

    Several threads may call one at the same time. It can be pickled: what arrives elsewhere has the same settings, the
    model's key among them, and makes connections of its own.

    Args:
        llm: the model; each row is asked for one answer, by its ``generation_kwargs`` and ``structured_output``.
        prompt, system: Jinja2 templates over the row's columns, as of `mistill.Run`. Without ``prompt`` the row's
            column ``messages`` (a list of messages, or its JSON) is sent, or else its column ``prompt``, a string.
        columns: other names for columns that are added: ``{"generation": "summary"}``.

    Raises:
        InputError: ``llm`` is another kind of model; a template does not compile; ``columns`` names one that is not
            added.

    Example:
        >>> stage = Stage(MistralLLM(model="mistral-small-latest"), prompt="Sum up: {{ text }}")  # doctest: +SKIP
        >>> stage(pyarrow.table({"text": ["…"]})).column("generation")  # doctest: +SKIP
    """

    def __init__(
        self,
        llm: MistralLLM,
        *,
        prompt: str | None = None,
        system: str | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> None:
        if not isinstance(llm, MistralLLM):  # pyright: ignore[reportUnnecessaryIsInstance]  whoever checks no types
            raise InputError(
                f"a stage is of a MistralLLM, not of a {type(llm).__name__}",
                hint="for vectors: mistill embed" if isinstance(llm, MistralEmbeddings) else None,
            )
        self._settings: dict[str, Any] = {"prompt": prompt, "system": system, "columns": dict(columns or {})}
        self._llm = llm
        self._template = PromptTemplate(prompt=prompt, system=system)
        self._names = column_names(self._settings["columns"], COLUMNS)
        self._was_answered = False
        self._failures = FirstFailures()

    def __reduce__(self) -> tuple[Any, ...]:
        return _made_again, (type(self), self._llm, self._settings)

    def __call__(self, table: Any) -> Any:
        """The table, an Arrow one, with our columns after its own.

        Raises:
            InputError: it is no Arrow table, or has a column of the name of one that is added; nothing was sent.
            MistillError: no row was answered so far, and none would be: what `answers` raises.
        """
        answers = self.answers(table)
        for name in answers.column_names:
            table = table.append_column(name, answers.column(name))
        return table

    def answers(self, table: Any) -> Any:
        """Only our columns, a row for each of the table's, in order: for engines that add columns themselves.

        Raises:
            InputError: as for a call; or templates name columns that the table has not, and no row could be asked.
            NoRowAnswered: the first 20 rows failed alike at the server.
            MistillError: what no row can survive, such as a refused key.
        """
        self._check(table)
        generation = self._llm.generation()
        asked = [self._prompt(row, generation) for row in open_source(table)]
        refused = [one for one in asked if isinstance(one, InputError)]
        if refused and len(refused) == len(asked) and self._template.lacks(table.column_names):
            raise refused[0]
        outcomes = iter(self._llm.outcomes([one for one in asked if isinstance(one, Prompt)]))
        ends = [
            next(outcomes) if isinstance(one, Prompt) else Outcome(completions=(), error=one) for one in asked
        ]
        self._look_for_what_concerns_all(ends)
        return self._table(ends)

    @property
    def schema(self) -> Any:
        """Names and types of our columns: an Arrow schema."""
        pyarrow = _pyarrow()
        types = {"input_tokens": pyarrow.int64(), "output_tokens": pyarrow.int64(), "cost": pyarrow.float64()}
        return pyarrow.schema(
            [(name, types.get(ours, pyarrow.string())) for ours, name in self._names.items()]
        )

    @property
    def type(self) -> Any:
        """All of our columns as one Arrow struct, as which some engines take the columns of a function."""
        return _pyarrow().struct(list(self.schema))

    def _check(self, table: Any) -> None:
        if not isinstance(table, _pyarrow().Table):
            raise InputError(
                f"a stage takes batches that are Arrow tables, not {type(table).__name__}",
                hint='with Ray Data: map_batches(Stage, …, batch_format="pyarrow")',
            )
        taken = [name for name in self._names.values() if name in table.column_names]
        if taken:
            raise InputError(
                f"the batch has columns that the stage adds too: {', '.join(map(repr, taken))}",
                hint="give ours other names, such as columns={'generation': 'summary'}, or leave its own out before",
            )

    def _prompt(self, row: Row, generation: Generation) -> Prompt | InputError:
        if row.problem is not None:
            return UnusableRow(f"{row.where}: {row.problem}", hint=row.hint, index=row.index)
        try:
            return generation.check(self._template.render(row))
        except InputError as error:
            return row_error(row, error.message, error.hint) if error.index is None else error
        except BaseException as error:  # whatever a row holds: it must not hold up the other rows
            let_interrupt_pass(error)
            return row_error(row, f"it cannot be made into a request: {type(error).__name__}: {error}")

    def _look_for_what_concerns_all(self, ends: Sequence[Outcome]) -> None:
        self._was_answered = self._was_answered or any(end.error is None for end in ends)
        if self._was_answered:
            return
        for error in (end.error for end in ends if end.error is not None):
            if classify(error).fatal:
                raise error
            if self._failures.add(error):
                raise self._failures.told(error)

    def _table(self, ends: Sequence[Outcome]) -> Any:
        found: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        for end in ends:
            completion = next(iter(end.completions), None)
            found["generation"].append(_text(completion.text if completion else None))
            found["finish_reason"].append(completion.finish_reason if completion else end.finish_reason)
            found["input_tokens"].append(end.usage.input_tokens)
            found["output_tokens"].append(end.usage.output_tokens)
            found["cost"].append(end.cost)
            found["error"].append(_text(None if end.error is None else str(ErrorRecord.of(end.error))))
        return _pyarrow().table(list(found.values()), schema=self.schema)


def _made_again(kind: type[Stage], llm: MistralLLM, settings: Mapping[str, Any]) -> Stage:
    return kind(llm, **settings)


def _pyarrow() -> Any:
    return PYARROW.load("a stage of an engine")


def _text(text: str | None) -> str | None:
    return None if text is None else whole_characters(text)
