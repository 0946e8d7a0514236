"""Settings of files and batch jobs: how they work, and what goes wrong with them. Part of `Settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, le=1)]


class BatchSettings(BaseModel):
    """How files and batch jobs work."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    batch_queue_s: Seconds = 0.0
    """Time that a job is QUEUED; a change holds for those that are."""
    batch_line_s: Seconds = 0.0
    """Time that each line of a job takes; the lines of one job are answered one after the other."""
    batch_cancel_s: Seconds = 0.0
    """Time from a cancellation to CANCELLED. Lines go on being answered meanwhile."""
    batch_create_s: Seconds = 0.0
    """Time that the creation of a job takes. The job is made all the same if the client goes away meanwhile."""
    batch_hour_s: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds that an hour takes, in the time-out of jobs, the expiry of files and that of signed addresses."""
    batch_list_lag_s: Seconds = 0.0
    """Time until a new job is in the list of jobs; by its id it is found at once."""
    batch_filter: Literal["metadata", "ignored"] = "metadata"
    """metadata: the lists obey all their filters, that one too; ignored: they have everything, whatever is asked."""
    batch_retention_s: Seconds | None = None
    """How long the results of a job can be downloaded after its end. Unless given, as long as the simulator runs."""
    batch_max_requests: Annotated[int, Field(ge=1)] = 100_000
    """Requests of one job; more are refused with 400."""
    batch_max_pending: Annotated[int, Field(ge=1)] = 1_000_000
    """Requests of all jobs that have not ended; a job that goes beyond it gets 429 code 1300."""
    batch_max_bytes: Annotated[int, Field(ge=1)] = 512 * 2**20
    """A file, or a job with its requests in it, that is larger gets 413."""
    batch_deleted_input: Literal["fails", "runs"] = "fails"
    """What becomes of a queued job whose input file is deleted."""
    batch_body_needs_model: bool = False
    """A line is refused with 422 where its body has no model, though its job has one."""
    batch_caches: bool = False
    """Lines of jobs use the cache of prompts too, at a tenth of half the price. Whether Mistral's do is not known."""
    batch_bills_cancelled: bool = False
    """A job that was cancelled, or ran out of time, bills the lines that it had answered."""
    batch_needs_billing: bool = False
    """Jobs are refused with 402, as for an account without billing."""
    batch_key_apart: bool = False
    """A job is known to the key alone that made it, as to those of its workspace; to others it is not there."""
    batch_absent: bool = False
    """There are neither files nor jobs: 404, as at regional hosts."""


class BatchFaults(BaseModel):
    """What goes wrong with files and batch jobs."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    batch_busy: Rate = 0.0
    """Share of requests about files and jobs that are refused with 503, and do nothing."""
    batch_upload_lost: Rate = 0.0
    """Share of uploads that are kept, and whose answer is lost."""
    batch_create_lost: Rate = 0.0
    """Share of jobs that are created, and whose answer is lost."""
    batch_create_denied: Rate = 0.0
    """Share of jobs that are created, and answered with 429 as if they were not."""
    batch_cancel_refused: Rate = 0.0
    """Share of cancellations that are refused with 409, and do nothing."""
    batch_download_cut: Rate = 0.0
    """Share of downloads that end half-way: by the connection, or as if they were whole."""
    batch_failed: Rate = 0.0
    """Share of jobs that end as FAILED with nothing answered."""
    batch_unknown_state: Literal["running", "ended"] | None = None
    """Jobs that are RUNNING, or that have ended as SUCCESS, are shown in a state that nobody knows."""
    batch_wrong_counts: bool = False
    """The counts of a job that has ended do not add up."""
    batch_errors_in: Literal["error_file", "output_file"] = "error_file"
    """Which file has the lines that were refused, or failed."""
    batch_error_line: Rate = 0.0
    """Share of lines that fail with 500, beside those that meet a fault as a request would."""
    batch_text_body: Rate = 0.0
    """Share of lines whose body is a text with the JSON in it."""
    batch_missing: Rate = 0.0
    """Share of lines that are answered, and are in no file."""
    batch_duplicate: Rate = 0.0
    """Share of lines that are there twice."""
    batch_no_id: Rate = 0.0
    """Share of lines without their custom_id."""
    batch_unknown_id: Rate = 0.0
    """Share of lines with a custom_id that nobody gave."""
    batch_broken_line: Rate = 0.0
    """Share of lines that break off half-way, so that they are no JSON."""
