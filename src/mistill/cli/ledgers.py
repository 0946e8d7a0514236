"""A run that was started before, found by its output: its ledger, and the shape of its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from mistill.api.errors import InputError
from mistill.cli.command import option
from mistill.llms import MistralLLM
from mistill.runs.export import RecordShape, record_shape
from mistill.runs.ledger import EVERYTHING, LedgerReader, Selection
from mistill.runs.run import Output
from mistill.structured.schema import OutputSchema
from mistill.structured.settings import compile_structured_output

_SUFFIX = ".ledger"

ledger_option = option(
    "--ledger", group="Run", metavar="FILE", help="Where the run remembers.  [default: OUT.ledger]"
)
where_option = option(
    "--where",
    group="Run",
    metavar="CONDITION",
    help="Which rows: error=rate_limited, finish_reason=length, output_tokens>=500, row<100; a comma means and.",
)


def find_ledger(out: str, ledger: str | None) -> Path:
    """The ledger of the run that writes ``out``; ``out`` may be the ledger itself.

    Raises:
        InputError: there is none.
    """
    path = Path(ledger or (out if out.endswith(_SUFFIX) else out + _SUFFIX))
    if not path.is_file():
        raise InputError(
            f"no run is known for {out}: there is no file {path}",
            hint="give the --out of the run, or its --ledger",
        )
    return path


def output_of(ledger: Path, out: str) -> str:
    """The output's own name, where the ledger's was given in its place."""
    return str(ledger).removesuffix(_SUFFIX) if out.endswith(_SUFFIX) else out


def selection_of(where: str | None, *, failed: bool = False) -> Selection:
    """``--where``, and ``--failed`` besides."""
    terms = [*(["state=failure"] if failed else []), *([where] if where else [])]
    return Selection.parse(",".join(terms)) if terms else EVERYTHING


def shape_of(
    reader: LedgerReader,
    *,
    columns: Mapping[str, str] | None = None,
    extra_columns: Iterable[str] = (),
    flatten: bool | None = None,
    schema: OutputSchema | None = None,
) -> RecordShape:
    """The shape of the run's own records, changed where something is given."""
    details = reader.details()
    if "output" not in details:
        raise InputError(f"{reader.path} has no row yet: its run never got that far", hint="start the run")
    output = msgspec.convert(details["output"], Output)
    renames = output.columns | dict(columns or {})
    return record_shape(
        renames=[f"{ours}={theirs}" for ours, theirs in renames.items()],
        extra=dict.fromkeys([*output.extra_columns, *extra_columns]),
        schema=schema or _own_schema(details["llm"]),
        flatten=output.flatten if flatten is None else flatten,
        num_generations=reader.plan()["num_generations"],
    )


def _own_schema(llm: Mapping[str, Any]) -> OutputSchema | None:
    """The schema that the run asked its answers to fit, as its ledger has it."""
    setting = llm.get("structured_output")
    if setting is None:
        return None
    return compile_structured_output(MistralLLM.restore_attribute("structured_output", setting)).schema
