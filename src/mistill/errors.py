"""The error tree: what went wrong, whether a retry can help, and what to do next.

    MistillError                      message, hint, retryable, attempts, maybe_billed, partial
    ├── InputError (ValueError)       refused before anything was sent: a row, a message, an argument, a setting
    │   ├── WrongParameter            a row's own value of a generation parameter: this row alone
    │   ├── UnusableRow               a row that no request is made of, even in a retry
    │   └── WrongFile                 a row's own image, document or sound: this row alone
    ├── APIError                      the server answered with an error: status, code, kind, correlation_id
    │   ├── BadRequest                400, 422: this request, permanently
    │   │   └── InvalidModel          400, code 1500: no such model, so the whole run
    │   ├── Unauthorized              401: the key, so the whole run
    │   ├── Forbidden                 403: guardrail, region or rights
    │   ├── NotFound                  404: no such model or path
    │   ├── RateLimited               429, code 1300: your quota          retry_after_s, limit_is_zero
    │   ├── CapacityExceeded          429, code 3505: their capacity      retry_after_s
    │   └── ServerError               5xx                                 retry_after_s
    ├── TransportError                no whole answer came               maybe_billed
    │   ├── ConnectFailed             the request never left              (maybe_billed is False)
    │   │   └── NothingAnswers        and nothing ever answered there: the whole run
    │   ├── Disconnected              the connection ended before the answer did
    │   └── AttemptTimeout            no answer within `timeout`
    ├── NoRowAnswered                 the first rows of a run failed alike: the whole run
    ├── MalformedAnswer               200, but the body is not an answer  maybe_billed
    ├── InvalidOutput                 a paid answer that does not fit its schema
    │   ├── RepeatedAnswer            it repeated itself without end, and was cut off
    │   ├── AnswerWithoutFields       it is no object, so nothing of it can be columns
    │   ├── FieldLeftOut              a field of it has no column: another has its name
    │   └── UnwritableAnswer          what its class makes of it cannot be written
    ├── Stopped                       a budget, a deadline or an interrupt ended the work         reason
    ├── RunStopped                    a run ended early, and nobody had asked for it              summary
    ├── LedgerError                   a run's record on disk cannot be read or written
    │   ├── LedgerInUse               another process is running on it
    │   └── ManifestChanged           it belongs to a run with other settings      changes
    └── LocalModelError               the demo model cannot run

    GenerationError (ExceptionGroup)  some rows of a call failed: their errors, and every good answer

Every error is raised ``from`` its cause. None holds a request header, so no key can leak through one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from difflib import get_close_matches
from threading import current_thread, main_thread
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self, TypeVar

from msgspec import Struct

_BODY_EXCERPT_CHARS = 500

E = TypeVar("E", bound=Exception)


class RateLimits(Struct, frozen=True):
    """Requests and tokens a minute as the server gave them with one answer; None where it gave none.

    ``query_cost`` is the number of tokens that the server counted for this request; ``retry_after_s`` is how
    many seconds it wants us to wait.
    """

    requests_limit: int | None = None
    requests_remaining: int | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    query_cost: int | None = None
    retry_after_s: float | None = None

    @property
    def limit_is_zero(self) -> bool:
        """This key may never use this model, so waiting cannot help."""
        return self.requests_limit == 0 or self.tokens_limit == 0


class MistillError(Exception):
    """Base of every error that mistill raises on purpose.

    ``kind`` is the stable, machine-readable name (snake_case) that records, ledgers and summaries show.
    """

    kind: ClassVar[str] = "error"

    retryable: bool = False
    """Whether another attempt could help, as `delivery.retry.classify` decided for this error. False until it has:
    nothing was sent, or the client was used without retries."""

    partial: Any = None
    """The `Completion` as far as it came, where the answer was streamed and broke off."""

    attempts: int = 0
    """How many HTTP attempts ended in this error, the last included."""

    maybe_billed: bool = False
    """A request had left, so it may cost money though no answer came."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @property
    def headline(self) -> str:
        """What happened, without the hint."""
        return self.message

    def __str__(self) -> str:
        return f"{self.headline} ({self.hint})" if self.hint else self.headline

    def __reduce__(self) -> tuple[Any, ...]:
        # The default reduce calls cls(*args), which keyword-only attributes do not survive.
        return (_rebuild, (type(self), self.args, self.__dict__.copy()))


def _rebuild(cls: type[MistillError], args: tuple[Any, ...], state: dict[str, Any]) -> MistillError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class InputError(MistillError, ValueError):
    """Input that was refused before a request left. ``index`` is the row's place in its call, from 0."""

    kind = "invalid_input"
    index: int | None = None

    def __init__(self, message: str, *, hint: str | None = None, index: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index


class WrongParameter(InputError):
    """A row's own value of a generation parameter is wrong: that row's failure alone, even if it is the first."""


class UnusableRow(InputError):
    """A row was read, and is none of a run, whatever it is asked: a value that JSON cannot carry, no list where one is
    to be exploded, more cells than the header. A retry does not ask it either."""

    kind = "unusable_row"


class WrongFile(InputError):
    """What a row brings as an image, a document or sound is none, or too large: that row's failure alone, even if it is
    the first."""

    kind = "wrong_file"


class APIError(MistillError):
    """An HTTP answer that says no. ``code`` and ``error_type`` are Mistral's own, where it gave them."""

    kind = "api_error"
    status: int = 0
    code: str | None = None
    error_type: str | None = None
    correlation_id: str | None = None
    retry_after_s: float | None = None
    limits: RateLimits | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str | None = None,
        error_type: str | None = None,
        correlation_id: str | None = None,
        retry_after_s: float | None = None,
        limits: RateLimits | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message[:_BODY_EXCERPT_CHARS], hint=hint)
        self.status = status
        self.code = code
        self.error_type = error_type
        self.correlation_id = correlation_id
        self.retry_after_s = retry_after_s
        self.limits = limits

    @property
    def headline(self) -> str:
        parts = [f"HTTP {self.status}"]
        if self.code:
            parts.append(f"code {self.code}")
        if self.correlation_id:
            parts.append(f"correlation id {self.correlation_id}")
        return f"{self.message} [{', '.join(parts)}]"


class BadRequest(APIError):
    kind = "bad_request"


class InvalidModel(BadRequest):
    """There is no such model at this endpoint: no row of the call can be answered."""

    kind = "invalid_model"


class Unauthorized(APIError):
    kind = "unauthorized"


class Forbidden(APIError):
    kind = "forbidden"


class NotFound(APIError):
    kind = "not_found"


class RateLimited(APIError):
    """429 with code 1300: your own quota. ``limit_is_zero``: this key may never use this model."""

    kind = "rate_limited"

    @property
    def limit_is_zero(self) -> bool:
        return self.limits is not None and self.limits.limit_is_zero


class CapacityExceeded(APIError):
    """429 with code 3505: the server's capacity, whatever your quota says."""

    kind = "capacity_exceeded"


class ServerError(APIError):
    kind = "server_error"


class TransportError(MistillError):
    """No whole answer came. ``maybe_billed``: the request had left, so it may cost money all the same."""

    kind = "transport_error"

    def __init__(self, message: str, *, maybe_billed: bool = True, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.maybe_billed = maybe_billed


class ConnectFailed(TransportError):
    """The request never left. ``why``: why no connection to ``endpoint`` could be made."""

    kind = "connect_failed"
    endpoint: str = ""
    why: str = ""

    def __init__(self, message: str, *, endpoint: str = "", why: str = "", hint: str | None = None) -> None:
        super().__init__(message, maybe_billed=False, hint=hint)
        self.endpoint = endpoint
        self.why = why


class NothingAnswers(ConnectFailed):
    """No attempt has ever met a server at ``endpoint``: no row of the call can be answered."""

    kind = "nothing_answers"

    @classmethod
    def after(cls, error: ConnectFailed) -> Self:
        """What the last of the failed attempts says of all of them."""
        message = f"nothing answers at {error.endpoint}: {error.why}"
        return cls(message, endpoint=error.endpoint, why=error.why, hint=error.hint)


class Disconnected(TransportError):
    kind = "disconnected"


class AttemptTimeout(TransportError):
    kind = "timeout"


class NoRowAnswered(MistillError):
    """The first rows of a run all failed alike at the server, and none was answered: no more are sent."""

    kind = "no_row_answered"


class MalformedAnswer(MistillError):
    """A success status whose body is no answer: HTML, cut JSON, no choices."""

    kind = "malformed_answer"
    maybe_billed = True
    correlation_id: str | None = None

    def __init__(self, message: str, *, correlation_id: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.correlation_id = correlation_id


class InvalidOutput(MistillError):
    """A paid answer that does not fit its schema. ``text`` is the raw answer; ``path`` is where it fails."""

    kind = "invalid_output"
    text: str | None = None
    path: str = "$"

    def __init__(self, message: str, *, text: str | None, path: str = "$", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.text = text
        self.path = path


class RepeatedAnswer(InvalidOutput):
    """A paid answer that repeated itself without end, white space or digits or a text, and was cut off."""

    kind = "repeated_answer"


class AnswerWithoutFields(InvalidOutput):
    """A paid answer whose fields are to be columns, and that is no object."""

    kind = "answer_without_fields"


class FieldLeftOut(InvalidOutput):
    """A paid answer with a field that its schema does not name, and that is no column: another one has its name."""

    kind = "field_left_out"


class UnwritableAnswer(InvalidOutput):
    """A paid answer that fits its schema, but of which no record can be made: a serializer of its class raised."""

    kind = "unwritable_answer"


StopReason = Literal[
    "interrupted", "stopped", "budget", "deadline", "cancelled", "waiting", "moved", "unknown_jobs"
]
"""Why work was ended on purpose: Ctrl-C, ``stop()`` or another row's fatal error, money or tokens, time, the caller's
own cancellation, that the rest is in batch jobs, which nobody need wait for, that another model answers, or that the
server does not know batch jobs of ours, or not to this key."""


class Stopped(MistillError):
    """The work was ended on purpose before this row was done; nothing is wrong with the row itself.

    ``reason`` says why.
    """

    kind = "stopped"
    reason: StopReason = "stopped"

    def __init__(self, message: str, *, reason: StopReason = "stopped", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason

    @classmethod
    def at_deadline(cls, allowed: str) -> Self:
        """The time that the work may take is over.

        Args:
            allowed: which time that was, in words: ``5 min``.
        """
        return cls(
            f"budget: the deadline of {allowed} has passed",
            reason="deadline",
            hint="run again to go on with the rest",
        )


class RunStopped(MistillError):
    """A run ended early though nobody had asked for it: a refused key, an unknown model, nothing that answers.

    It is raised from the error that ended the run. ``summary`` is the run's `RunReport`: what was answered is kept.
    """

    kind = "run_stopped"
    summary: Any = None

    def __init__(self, message: str, *, summary: Any = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.summary = summary


class LedgerError(MistillError):
    """A run's ledger cannot be read or written. What was committed before is still in it."""

    kind = "ledger_error"


class LedgerInUse(LedgerError):
    """Another process is running on this ledger."""

    kind = "ledger_in_use"


class ManifestChanged(LedgerError):
    """The ledger belongs to a run with other settings. ``changes``: setting -> (in the ledger, now)."""

    kind = "manifest_changed"
    changes: Mapping[str, tuple[object, object]] = MappingProxyType({})

    def __init__(
        self, message: str, *, changes: dict[str, tuple[object, object]], hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.changes = changes


class LocalModelError(MistillError):
    """The demo model cannot run: its extra, its weights or its process is missing or broken."""

    kind = "local_model"


class GenerationError(ExceptionGroup[MistillError]):
    """Some rows of a call failed; the others were answered, and are here.

    Attributes:
        outputs: what the call would have returned, with ``None`` for each failed row.
        failures: the error of each failed row, by the row's index.
    """

    outputs: list[Any]
    failures: dict[int, MistillError]

    @classmethod
    def of(cls, outputs: Sequence[Any], failures: Mapping[int, MistillError]) -> Self:
        """The error of a call, from what it would have returned and what went wrong."""
        index, first = min(failures.items())
        message = f"{len(failures)} of {len(outputs)} rows failed; the first is row {index}: {first}"
        group = cls(message, list(failures.values()))
        group.outputs = list(outputs)
        group.failures = dict(failures)
        return group

    def derive(self, excs: Sequence[E], /) -> ExceptionGroup[E]:  # pyright: ignore[reportIncompatibleMethodOverride]  only errors get in
        return ExceptionGroup(self.message, excs)

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).of, (self.outputs, self.failures))


def unforeseen(error: Exception) -> MistillError:
    """An error of somebody else's code, as the ledger keeps it."""
    return MistillError(f"{type(error).__name__}: {error}")


def copied(error: E) -> E:
    """The same error once more: where many raise it, each would add to its traceback."""
    again = copy(error)
    again.__cause__ = error.__cause__
    return again


def nearest_name(name: object, known: Iterable[str]) -> str | None:
    """The name among ``known`` that was perhaps meant."""
    return next(iter(get_close_matches(str(name), list(known), n=1, cutoff=0.5)), None)


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """A hint for a name that is not ``known``: the nearest one that is, or else all of them."""
    names = list(known)
    near = nearest_name(name, names)
    return f"there are {', '.join(names)}" if near is None else f"did you mean {near!r}?"


def let_interrupt_pass(error: BaseException) -> None:
    """Called first where whatever the code of a user raises costs one row: ``sys.exit()`` in a validator, say.

    Ctrl-C is raised again. Python raises it in the main thread only, so that elsewhere it is the code's own too.
    """
    if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
        raise error
