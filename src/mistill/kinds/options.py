"""`RunOptions`: every setting of a run, once. Python, the command line and settings files all fill this.

A new option is a field of `RunOptions`, its line in `RunArguments`, and the place that obeys it: the command line makes
its option of what `Written` says, and settings files know every option of the command line.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypedDict, cast

from msgspec import Struct
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from mistill.api.batch import MAX_FILE_BYTES, MAX_REQUESTS, MAX_TIMEOUT_HOURS
from mistill.characters import whole_characters
from mistill.datasets.writers import CsvDialect
from mistill.errors import InputError, did_you_mean
from mistill.llms.mistral import MistralLLM
from mistill.llms.parameters import PARAMETERS
from mistill.shards.placement import MAX_SHARDS, OneShard, parse_placement
from mistill.wording import Part, Setting, words

OnUnknown = Literal["retry", "hold"]
OnStop = Literal["raise", "return"]
Lane = Literal["live", "batch", "cheapest"]
"""How requests travel: each by itself, answered at once; in Mistral's batch jobs; or each row by what costs less."""

MAX_JOB_REQUESTS = 1_000_000
"""Of one job, by the page of Mistral's documentation that allows the most."""
_HOUR_S = 3600.0
MAX_GENERATIONS = 1024
"""More answers of one row than that are a slip of the finger: each is asked for, and paid."""


class Written(Struct, frozen=True):
    """How an option is written on the command line. Its help is the field's description.

    Attributes:
        group: where it stands in the help.
        flag: its name, where it is not the field's own. ``negates``: giving it makes the field false.
        either: it may be given with ``no-`` before its name too, which makes the field false; else it is None.
        metavar: what stands for its value in the help; for ``NAME=VALUE``, both.
        verb: what it does with a NAME, for the error of one that is given twice.
        form: how its value is read, where the field's type does not say it: a time (``90s``, ``2h``), bytes
            (``200MB``).
        in_settings: whether a settings file may have it.
    """

    group: str
    flag: str | None = None
    metavar: str | None = None
    verb: str = ""
    form: Literal["duration", "bytes", "flattening"] | None = None
    in_settings: bool = True
    negates: bool = False
    either: bool = False


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, tuple):
        for one in cast("tuple[Any, ...]", value):
            yield from _texts_in(one)
    elif isinstance(value, dict):
        for name, one in cast("dict[Any, Any]", value).items():
            yield from _texts_in(name)
            yield from _texts_in(one)


_MOST = 10**15
"""Of money, tokens and seconds: more is a slip of the finger, and no number that a ledger keeps whole."""


def _check_positive(value: Any) -> Any:
    if isinstance(value, int | float) and not 0 < value < math.inf:
        raise ValueError(f"it must be a positive number, not {value}")
    if isinstance(value, int | float) and value > _MOST:
        raise ValueError(f"it must be at most {_MOST:,}")
    return value


_positive = BeforeValidator(_check_positive)


def _check_placement(value: str) -> str:
    parse_placement(value)
    return value


def _check_one_shard(value: str) -> str:
    OneShard.parse(value)
    return value


_placed, _one_shard = AfterValidator(_check_placement), AfterValidator(_check_one_shard)


def _check_hours(seconds: float) -> float:
    if not (1 <= seconds / _HOUR_S <= MAX_TIMEOUT_HOURS and seconds % _HOUR_S == 0):
        is_slip = 1 <= seconds <= MAX_TIMEOUT_HOURS
        meant = f"; {seconds:g} hours, as in {seconds:g}h, are {seconds * _HOUR_S:,.0f}" if is_slip else ""
        limit = f"from 1 to {MAX_TIMEOUT_HOURS}"
        raise ValueError(f"it must be whole hours, {limit}, not {seconds:g} seconds{meant}")
    return seconds


_whole_hours = AfterValidator(_check_hours)


def _is_duration(options: type[RunOptions], *loc: int | str) -> bool:
    field = options.model_fields.get(str(loc[0]))
    return field is not None and any(
        isinstance(one, Written) and one.form == "duration" for one in field.metadata
    )


def _named(place: tuple[int | str, ...]) -> list[Part]:
    """The option in which something is wrong, and the place in it."""
    name, *steps = place
    return [Setting(str(name)), *(f".{step}" for step in steps)]


def split_names(value: Any) -> Any:
    """``a,b`` → ``["a", "b"]``; a name with a comma in it stands in double quotes, as in a CSV file."""
    if not isinstance(value, str):
        return value
    return [name for line in csv.reader([value], skipinitialspace=True) for name in line if name]


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]


def hint_of_parameter(name: str) -> str | None:
    """Where a generation parameter or an attribute of the model is given, if it is one."""
    if name in PARAMETERS:
        return f"it is a generation parameter: parameters={{{name!r}: …}}"
    return f"it is the model's: MistralLLM({name}=…)" if name in MistralLLM.model_fields else None


class RunOptions(BaseModel):
    """Every setting of a run besides its input, its model and its output. Frozen; checked when it is made."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prompt: Annotated[str | None, Written("Prompt", metavar="TEMPLATE")] = Field(
        default=None,
        description="Jinja2 over the row's columns; without it a column {columns} is sent.",
    )
    system: Annotated[str | None, Written("Prompt", metavar="TEMPLATE")] = Field(
        default=None, description="System message, a template too."
    )
    images: Annotated[Names, Written("Prompt", "--image", "COLUMN")] = Field(
        default=(),
        description="Column whose images go along with the prompt: paths, addresses or bytes. Repeatable.",
    )
    documents: Annotated[Names, Written("Prompt", "--document", "COLUMN")] = Field(
        default=(), description="Column whose documents (PDF) do. Repeatable."
    )
    audio: Annotated[Names, Written("Prompt", "--audio", "COLUMN")] = Field(
        default=(), description="Column whose sound does. Repeatable."
    )
    num_generations: Annotated[int, Written("Prompt", metavar="N")] = Field(
        default=1,
        ge=1,
        le=MAX_GENERATIONS,
        description="Answers for each row; more than one make 'generation' a list.",
    )
    parameters: dict[str, Any] = Field(
        default_factory=dict[str, Any], description="Generation parameters, over the model's own."
    )
    row_parameters: Annotated[dict[str, Any], Written("Generation", "--param", "NAME=COLUMN", "sets")] = (
        Field(
            default_factory=dict[str, Any],
            description="Each row's own value of a parameter above, from its column: temperature=temp. Where that is "
            "null or missing, the option's holds. Repeatable.",
        )
    )
    output_format: Annotated[str | None, Written("Output", metavar="FORMAT")] = Field(
        default=None, description="Where the suffix does not tell: jsonl, csv.gz, …"
    )
    csv_dialect: Annotated[CsvDialect, Written("Output")] = Field(
        default="unix",
        description="excel: CSV and TSV as Excel opens them, with a byte order mark, and texts that it would take for "
        "formulas (=, +, -, @) made harmless by an apostrophe.",
    )
    columns: Annotated[dict[str, str], Written("Output", "--column", "OURS=NAME", "renames")] = Field(
        default_factory=dict[str, str],
        description="Rename a column of ours, such as generation=answer or embedding=vector. Repeatable.",
    )
    extra_columns: Annotated[Names, Written("Output", "--extra-column", "A,B")] = Field(
        default=(), description="Further columns: {extras}. Repeatable."
    )
    flatten: Annotated[bool | str, Written("Output", metavar="[=deep|=PREFIX]", form="flattening")] = Field(
        default=False,
        description="Fields of a structured answer become columns; =deep: those of objects in it too, as address.city; "
        "=answer_: with that before their names.",
    )
    keep: Annotated[Names, Written("Output", metavar="A,B")] = Field(
        default=(), description="Only these columns of the output, in this order. Repeatable."
    )
    drop: Annotated[Names, Written("Output", metavar="A,B")] = Field(
        default=(), description="All columns of the output but these. Repeatable."
    )
    earlier: Annotated[str | None, Written("Output", metavar="drop|PREFIX")] = Field(
        default=None,
        min_length=1,
        description="Columns of the row that ours would replace, as of an earlier run: drop leaves them out of the "
        "output, any other word is put before their names, such as first_. Prompts see them as they are.",
    )
    explode: Annotated[str | None, Written("Input", metavar="COLUMN[=NAME]")] = Field(
        default=None,
        description="A row for each item of the list in this column, with the row's other columns; NAME: what the "
        "column is called then.",
    )
    where: Annotated[str | None, Written("Input", metavar="CONDITION")] = Field(
        default=None,
        description="Only rows that fulfil it: category=refund, score>=4, error=null, address.city!='Paris, Texas'; "
        "a comma means and.",
    )
    id_column: Annotated[str | None, Written("Input", metavar="COLUMN")] = Field(
        default=None, description="Names rows in messages."
    )
    limit: Annotated[int | None, Written("Input", metavar="N")] = Field(
        default=None, ge=0, le=2**62, description="At most so many rows, of those that are left."
    )
    input_format: Annotated[str | None, Written("Input", metavar="FORMAT")] = Field(
        default=None, description="Where the suffix does not tell: jsonl, csv, …"
    )
    delimiter: Annotated[str | None, Written("Input", metavar="CHAR")] = Field(
        default=None, description="Between the fields of CSV files: ';', '|', tab."
    )
    encoding: Annotated[str | None, Written("Input", metavar="NAME")] = Field(
        default=None,
        description="Of text files that are not UTF-8: cp1252, latin-1, utf-16, …; utf-8-replace: U+FFFD for bytes "
        "that are no text.",
    )
    dedupe: Annotated[bool, Written("Input")] = Field(
        default=False, description="Ask identical requests once, and copy the answer."
    )
    max_cost: Annotated[float | None, _positive, Written("Budget", metavar="USD")] = Field(
        default=None, description="What the run may cost, all starts together."
    )
    max_tokens_total: Annotated[int | None, _positive, Written("Budget", metavar="N")] = Field(
        default=None, description="Tokens in and out, all starts together."
    )
    deadline: Annotated[float | None, _positive, Written("Budget", form="duration")] = Field(
        default=None, description="What this start may take: 90s, 30m, 2h."
    )
    sample: Annotated[int | None, Written("Budget", metavar="N", in_settings=False)] = Field(
        default=None,
        ge=1,
        description="Ask N rows, taken at random, then forecast cost and time of the rest. The answers are kept.",
    )
    sample_seed: Annotated[int, Written("Budget", metavar="N", in_settings=False)] = Field(
        default=0, description="Another one takes other rows for the sample."
    )
    lane: Annotated[Lane, Written("Lane")] = Field(
        default="live",
        description="batch: in Mistral's batch jobs, at half the price and in their own time, hours as a rule; "
        "cheapest: each row by whichever costs less, which the first rows tell. May change from start to start.",
    )
    wait: Annotated[bool, Written("Lane", "--no-wait", negates=True)] = Field(
        default=True,
        description="Send the jobs and end, with exit code 4; the same command goes on, on another day too.",
    )
    batch_rows: Annotated[int, Written("Lane", metavar="N")] = Field(
        default=MAX_REQUESTS, ge=1, le=MAX_JOB_REQUESTS, description="Most requests of one job."
    )
    batch_bytes: Annotated[int, Written("Lane", form="bytes")] = Field(
        default=200_000_000, ge=1, le=MAX_FILE_BYTES, description="Most bytes of the file of one: 50MB."
    )
    batch_timeout: Annotated[float, _whole_hours, Written("Lane", form="duration")] = Field(
        default=24 * _HOUR_S,
        description="How long one may take, in whole hours, 7d at most; what is not answered then is asked again.",
    )
    batch_tail: Annotated[int, Written("Lane", metavar="N")] = Field(
        default=200,
        ge=0,
        description="Where no more rows than these are left over when jobs have ended, ask them live; 0: never.",
    )
    keep_batch_files: Annotated[bool, Written("Lane")] = Field(
        default=False, description="Leave the files of jobs at Mistral, and here, when they are read."
    )
    prompt_cache: Annotated[bool, Written("Lane", "--no-prompt-cache", negates=True)] = Field(
        default=True,
        description="Do not tell Mistral which requests begin alike. It caches what they share, at a tenth of the "
        "price, and so one goes first and the others follow.",
    )
    loop_guard: Annotated[bool | None, Written("Lane", either=True)] = Field(
        default=None,
        description="Watch answers that are to be JSON as they come, and cut off one that repeats itself without end. "
        "Unless said, where Mistral answers and may take 2,048 tokens or more. Jobs cannot be watched.",
    )
    ledger: Annotated[Path | None, Written("Durability", metavar="FILE")] = Field(
        default=None, description="Where the run remembers.  [default: OUT.ledger]"
    )
    fresh: Annotated[bool, Written("Durability", in_settings=False)] = Field(
        default=False, description="Start over. An earlier ledger is kept under another name."
    )
    retry_failed: Annotated[bool, Written("Durability", "--no-retry-failed", negates=True)] = Field(
        default=True, description="Leave rows alone that failed before."
    )
    on_unknown: Annotated[OnUnknown, Written("Durability")] = Field(
        default="retry", description="Rows in flight at a crash may be on the bill: ask again, or not."
    )
    pin: Annotated[bool, Written("Durability")] = Field(
        default=False,
        description="End where another model answers than the one that has answered this run so far, as when "
        "mistral-small-latest moves on.",
    )
    grace: Annotated[float, Written("Durability", metavar="SECONDS")] = Field(
        default=30.0, ge=0, allow_inf_nan=False, description="How long Ctrl-C waits for what is in flight."
    )

    on: Annotated[str | None, _placed, Written("Machines", metavar="WHERE")] = Field(
        default=None,
        description="Work in shards: in so many processes of this machine, processes:4, or on a Ray cluster, ray or "
        "ray://HOST:PORT. --out may be a folder then, which gets a part for each shard.",
    )
    shards: Annotated[int | None, Written("Machines", metavar="N")] = Field(
        default=None,
        ge=1,
        le=MAX_SHARDS,
        description="In how many, where --on cuts the input.  [default: by its rows]",
    )
    shard: Annotated[str | None, _one_shard, Written("Machines", metavar="I/N", in_settings=False)] = Field(
        default=None,
        description="Work on one of N shards, from 0/N on, beside others that do the others: array jobs of Slurm, "
        "indexed jobs of Kubernetes, xargs -P.",
    )

    on_stop: OnStop = Field(
        default="raise",
        description="Raise where a run ends early and nobody has asked for it, or return its report.",
    )

    @field_validator("columns", "extra_columns", "input_format", "output_format", "keep", "drop", "earlier")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Half a character of UTF-16, or NUL, is in no path or column that can be kept."""
        for text in _texts_in(value):
            if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"{text[:80]!r} holds what no text of a file can")
        return value

    @field_validator("ledger")
    @classmethod
    def _check_path(cls, value: Path | None) -> Path | None:
        """The name of a file need be no text: Python has halves of characters for its bytes. No others, nor NUL."""
        try:
            name = b"" if value is None else os.fsencode(value)
        except UnicodeEncodeError:
            name = b"\0"
        if b"\0" in name:
            raise ValueError(f"{str(value)[:80]!r} holds what no name of a file can")
        return value

    @field_serializer("ledger", when_used="json-unless-none")
    def _shown_path(self, value: Path) -> str:
        return whole_characters(str(value))

    @field_validator("sample_seed")
    @classmethod
    def _check_sampled(cls, seed: int, options: ValidationInfo) -> int:
        if seed and options.data.get("sample") is None:
            raise ValueError("it chooses the rows of a sample, and none is wanted")
        return seed

    @field_validator("flatten")
    @classmethod
    def _read_flatten(cls, value: bool | str) -> bool | str:
        return value or value == ""  # --flatten alone

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """The options that were given by name, checked. ``None`` stands for an option that was not given.

        Raises:
            InputError: a name that no option has, or a value of a wrong type.
        """
        for name in given:
            if name not in cls.model_fields:
                hint = hint_of_parameter(name) or did_you_mean(name, cls.model_fields)
                raise InputError(f"a run has no option {name!r}", hint=hint)
        try:
            return cls(**{name: value for name, value in given.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            problem = first["msg"].removeprefix("Value error, ")
            if first["type"].startswith("float_") and _is_duration(cls, *first["loc"]):
                problem = "this is a number of seconds: 7200 for two hours"
            raise InputError(words(*_named(first["loc"]), f": {problem[0].lower()}{problem[1:]}")) from error

    def given(self) -> dict[str, Any]:
        """The options that are not as they are unless given."""
        return self.model_dump(exclude_defaults=True)

    @property
    def of_new_jobs(self) -> list[str]:
        """Options that were given and say something of jobs that a start in the live lane does not make."""
        about = {"wait", "batch_rows", "batch_bytes", "batch_timeout", "batch_tail"}
        return sorted(about & self.given().keys()) if self.lane == "live" else []

    @property
    def goes_by_jobs(self) -> bool:
        """All rows are asked in batch jobs. Those of a sample never are: somebody waits for what they tell."""
        return self.lane == "batch" and self.sample is None

    @property
    def goes_by_price(self) -> bool:
        """Each row is asked live or in a job, by what costs less. Those of a sample are asked live."""
        return self.lane == "cheapest" and self.sample is None

    def of_input(self) -> dict[str, Any]:
        """Which rows are read, as arguments of `open_source`."""
        return {
            "format": self.input_format,
            "encoding": self.encoding,
            "delimiter": self.delimiter,
            "limit": self.limit,
        }

    def of_plan(self) -> dict[str, Any]:
        """Which rows there are, for the plan of a run in shards; a limit may be another in each start."""
        names = ("explode", "where", "input_format", "encoding", "delimiter")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    def kept(self) -> dict[str, Any]:
        """What a ledger keeps of them, as JSON values: what was given, but for parameters, which the model's settings
        have, and what is the caller's affair alone."""
        return self.model_dump(
            mode="json", exclude_defaults=True, exclude={"parameters", "on_stop", "on", "shard"}
        )


OUTPUT_OPTIONS = (
    "output_format",
    "csv_dialect",
    "columns",
    "extra_columns",
    "flatten",
    "keep",
    "drop",
    "earlier",
)
"""Options that say what a record looks like: a retry and an export take them over."""


LANE_OPTIONS = (
    "lane",
    "wait",
    "batch_rows",
    "batch_bytes",
    "batch_timeout",
    "batch_tail",
    "keep_batch_files",
    "prompt_cache",
    "loop_guard",
)
"""Options that say how requests travel: those of a start, whatever earlier ones had."""

RETRY_OPTIONS = (
    "prompt",
    "system",
    "parameters",
    "row_parameters",
    "extra_columns",
    "max_cost",
    "max_tokens_total",
    "deadline",
    *LANE_OPTIONS,
    "pin",
    "grace",
    "on_stop",
)
"""Options that a retry has of its own."""


class LaneArguments(TypedDict, total=False):
    """`LANE_OPTIONS` as arguments."""

    lane: Lane
    wait: bool
    batch_rows: int
    batch_bytes: int
    batch_timeout: float
    batch_tail: int
    keep_batch_files: bool
    prompt_cache: bool


class RetryArguments(LaneArguments, total=False):
    """`RETRY_OPTIONS` as arguments of `Run.retry`; ``None``: as the run has it."""

    prompt: str | None
    system: str | None
    parameters: Mapping[str, Any] | None
    row_parameters: Mapping[str, str] | None
    extra_columns: Iterable[str]
    max_cost: float | None
    max_tokens_total: int | None
    deadline: float | None
    pin: bool
    loop_guard: bool | None
    grace: float
    on_stop: OnStop


class RunArguments(LaneArguments, total=False):
    """`RunOptions` as arguments of `Run`, where lists may be any iterable and paths text."""

    prompt: str | None
    system: str | None
    images: str | Iterable[str]
    documents: str | Iterable[str]
    audio: str | Iterable[str]
    num_generations: int
    parameters: Mapping[str, Any] | None
    row_parameters: Mapping[str, str] | None
    output_format: str | None
    csv_dialect: CsvDialect
    columns: Mapping[str, str] | None
    extra_columns: Iterable[str]
    flatten: bool | str
    keep: Iterable[str]
    drop: Iterable[str]
    earlier: str | None
    explode: str | None
    where: str | None
    id_column: str | None
    limit: int | None
    input_format: str | None
    delimiter: str | None
    encoding: str | None
    dedupe: bool
    max_cost: float | None
    max_tokens_total: int | None
    deadline: float | None
    sample: int | None
    sample_seed: int
    loop_guard: bool | None
    ledger: str | Path | None
    fresh: bool
    retry_failed: bool
    on_unknown: OnUnknown
    pin: bool
    grace: float
    on: str | None
    shards: int | None
    shard: str | None
    on_stop: OnStop
