"""Settings of the simulator: latency, quotas, faults, outages, batch jobs. Every unit is in the name."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, model_validator

from mistill.simulator.batch_settings import BatchFaults, BatchSettings, Rate, Seconds

FaultName = Literal[
    "429",
    "capacity",
    "500",
    "503",
    "503_text",
    "disconnect",
    "truncate",
    "stall",
    "html",
    "empty_choices",
    "null_content",
    "chunked_content",
    "missing_usage",
    "length",
    "cut_stream",
    "invalid_json",
    "wrong_json",
    "fenced_json",
    "loop_space",
    "loop_digits",
    "loop_text",
]

CachedPlace = Literal["prompt_tokens_details", "prompt_token_details", "num_cached_tokens"]
ServiceTier = Literal["none", "standard", "priority"]

DEFAULT_MODELS = (
    "mistral-small-2603",
    "mistral-medium-3-5",
    "mistral-large-2512",
    "ministral-3b-latest",
    "ministral-8b-latest",
    "ministral-14b-latest",
    "mistral-small-latest",
    "mistral-medium-latest",
    "mistral-large-latest",
    "magistral-medium-latest",
    "codestral-latest",
    "voxtral-small-latest",
    "mistral-embed",
    "codestral-embed",
)

Count = Annotated[int, Field(ge=0)]


class Settings(BatchFaults, BatchSettings):
    """What the simulated server is like. Immutable; ``Simulator.change`` puts a changed copy in its place.

    Those of files and batch jobs begin with ``batch_``.

    Each field's docstring is its description, and the help of its option of ``mistill simulate``.

    Raises:
        ValidationError: pydantic's, which is a ``ValueError``: an unknown name, or a value out of range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: int = 0
    """Drives every random choice: latency, faults and sampled values."""

    latency_s: Seconds = 0.0
    """Time from the whole request to the first byte of its answer (the median, where it varies)."""
    latency_distribution: Literal["fixed", "uniform", "lognormal"] = "fixed"
    """How the latency varies from request to request."""
    latency_spread: Seconds = 0.5
    """uniform: ± this share of ``latency_s``; lognormal: the sigma of its logarithm."""
    token_time_s: Seconds = 0.0
    """Time per completion token: between the deltas of a stream, in sum before a whole answer."""

    api_keys: frozenset[SecretStr] | None = None
    """Keys that are accepted; ``None``: any that is not empty."""
    admin_keys: frozenset[SecretStr] | None = None
    """Keys that ``GET /v1/admin/usage`` takes, as ``x-api-key``; ``None``: any that is not empty."""
    workspace_id: str = "5f0c1b1e-0d6e-4f0a-9b1f-6a1f3c2d4e5b"
    """The workspace of all keys; the bill of any other is empty."""
    bills_undelivered: Rate = 1.0
    """Share of the answers that are billed though a disconnect, a page in their place, or the client's leaving kept
    them from it."""
    unauthorized_form: Literal["detail", "message"] = "detail"
    """Which of the two bodies seen for 401 is sent."""
    models: tuple[str, ...] = DEFAULT_MODELS
    """Names that are listed and answered for; any other is refused with 400. Unless given, none that was retired."""
    any_model: bool = False
    """Answer for models that are not in ``models`` too."""
    max_context_tokens: Annotated[int, Field(ge=1)] = 131_072
    """Tokens of prompt and answer together; a prompt that has more is refused with 400."""
    validation_form: Literal["detail", "nested", "text"] = "detail"
    """Which of the three bodies seen for 422 is sent."""

    requests_per_minute: Count | None = None
    """Requests of one key to one model; more get 429 code 1300. Unless given, as many as come."""
    tokens_per_minute: Count | None = None
    """Tokens of one key's prompts and answers with one model; more get 429 code 1300. Unless given, as many as come."""
    quota_window_s: Annotated[float, Field(gt=0)] = 60.0
    """Length of the sliding window. The rates stay per minute: a window of 1 s holds a 60th of them."""
    quota_headers: Literal["2026", "older", "none"] = "2026"
    """Which generation of headers shows what is left of the quota."""
    quota_counts_refusals: bool = False
    """Requests refused with 429 use up the request quota too."""
    retry_after: Literal["none", "seconds", "milliseconds"] = "none"
    """Which header of a 429 has the waiting time: ``Retry-After`` or ``retry-after-ms``."""
    max_in_flight: Annotated[int, Field(ge=1)] | None = None
    """More requests than this at once get 429 code 3505, as when the server is full."""

    faults: dict[FaultName, Rate] = Field(default_factory=dict[FaultName, float])
    """Probability of each fault; a request has one at most, so they add up to 1 or less."""
    outage: Literal["503", "drop", "refuse"] | None = None
    """What is down. 503: answers, to everything; drop: connections are closed unanswered; refuse: nothing listens."""
    outage_after_s: Seconds = 0.0
    """When the outage begins, counted from the start, or from the change that brought it."""
    outage_for_s: Seconds | None = None
    """How long the outage lasts. Unless given, until it is changed."""
    poison: str | None = None
    """A prompt that contains this text is refused with 400, always."""

    answer_tokens: Count = 0
    """Shorter text answers are filled up with words to this length."""
    answer_spread: Annotated[float, Field(ge=0, le=4)] = 0.0
    """How that length varies from prompt to prompt: the sigma of its logarithm."""
    audio_seconds: Count = 0
    """Seconds of sound that usage reports of each prompt; 0 leaves ``prompt_audio_seconds`` out."""
    service_tier: ServiceTier = "none"
    """What usage says of the tier. Requests that ask for ``standard_only`` get no other. none: it says nothing."""
    answered_by: dict[str, str] = Field(default_factory=dict[str, str])
    """Model that is asked for → the one that answers in its place, as its answers say."""
    cache_tokens: Count = 4_000_000
    """Prompt tokens that are kept in the cache, in blocks of 64; the least used go first. 0: there is no cache."""
    cache_for_s: Seconds = 600.0
    """How long they are kept after their last use."""
    cache_hits: Rate = 0.98
    """Share of requests with a prompt_cache_key that reach the cache."""
    cache_hits_without_key: Rate = 0.02
    """Share of those without one that do."""
    cached_share: Rate | None = None
    """Share of the prompt tokens that is cached, whatever the cache has. Unless given, what it has."""
    cached_place: CachedPlace = "prompt_tokens_details"
    """Where usage has the cached tokens, if there are some: the specification has three places."""
    cache_key_refused: bool = False
    """A prompt_cache_key is refused with 422, as by servers that do not know it."""
    arguments_form: Literal["string", "object"] = "string"
    """How ``tool_calls[].function.arguments`` are sent."""
    embedding_dimension: Annotated[int, Field(ge=1)] = 1024
    """Numbers in a vector, where the request does not say how many."""
    embedding_batch_tokens: Annotated[int, Field(ge=1)] = 16_384
    """Inputs of one request for embeddings that hold more tokens than this in all are refused with 400."""
    embedding_batch_texts: Annotated[int, Field(ge=1)] = 256
    """More inputs in one request are refused with 400."""
    requests_kept: Count = 10_000
    """How many of the newest requests ``Simulator.requests`` remembers."""

    def changed(self, changes: dict[str, Any]) -> Self:
        """A copy with these changes, checked like new settings."""
        kept = {name: getattr(self, name) for name in self.model_fields_set}
        return self.model_validate(kept | changes)

    @model_validator(mode="after")
    def _at_most_one_fault(self) -> Self:
        total = sum(self.faults.values())
        if total > 1 + 1e-9:
            raise ValueError(f"the fault rates add up to {total:g}, but a request has one fault at most")
        return self
