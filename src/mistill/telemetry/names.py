"""The names of what is told: attributes, metrics and spans.

Source of those that begin with ``gen_ai``: the conventions that ``opentelemetry-util-genai`` 1.3b0 and
``opentelemetry-semantic-conventions`` 0.66b2 have, https://opentelemetry.io/docs/specs/semconv/gen-ai/ (2026-11-26).
They are in development. Those that begin with ``mistill`` are our own, where the conventions have none.
"""

from __future__ import annotations

from typing import Final

# --- requests ---------------------------------------------------------------------------------------------------------
OPERATION_NAME: Final = "gen_ai.operation.name"
PROVIDER_NAME: Final = "gen_ai.provider.name"
OUTPUT_TYPE: Final = "gen_ai.output.type"
REQUEST_MODEL: Final = "gen_ai.request.model"
REQUEST_STREAM: Final = "gen_ai.request.stream"
REQUEST_CHOICES: Final = "gen_ai.request.choice.count"
REQUEST_ENCODING_FORMATS: Final = "gen_ai.request.encoding_formats"
RESPONSE_ID: Final = "gen_ai.response.id"
RESPONSE_MODEL: Final = "gen_ai.response.model"
RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
TIME_TO_FIRST_CHUNK: Final = "gen_ai.response.time_to_first_chunk"
INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
CACHED_TOKENS: Final = "gen_ai.usage.cache_read.input_tokens"
DIMENSIONS: Final = "gen_ai.embeddings.dimension.count"
INPUT_MESSAGES: Final = "gen_ai.input.messages"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOKEN_TYPE: Final = "gen_ai.token.type"  # noqa: S105  of another kind

PARAMETERS: Final = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_tokens": "gen_ai.request.max_tokens",
    "frequency_penalty": "gen_ai.request.frequency_penalty",
    "presence_penalty": "gen_ai.request.presence_penalty",
    "random_seed": "gen_ai.request.seed",
    "seed": "gen_ai.request.seed",
    "stop": "gen_ai.request.stop_sequences",
}
"""Fields of a request → attributes."""

# --- stable conventions -----------------------------------------------------------------------------------------------
ERROR_TYPE: Final = "error.type"
SERVER_ADDRESS: Final = "server.address"
SERVER_PORT: Final = "server.port"
METHOD: Final = "http.request.method"
RESEND_COUNT: Final = "http.request.resend_count"
STATUS_CODE: Final = "http.response.status_code"
URL: Final = "url.full"
URL_TEMPLATE: Final = "url.template"

# --- our own ----------------------------------------------------------------------------------------------------------
ATTEMPTS: Final = "mistill.attempts"
COST: Final = "mistill.cost"
CORRELATION_ID: Final = "mistill.correlation_id"
LANE: Final = "mistill.lane"
QUEUE_TIME: Final = "mistill.queue_time"
RETRY_CAUSE: Final = "mistill.retry.cause"
ROWS_ASKED: Final = "mistill.rows"
JOB_ID: Final = "mistill.job.id"
JOB_LINES: Final = "mistill.job.lines"
JOB_ANSWERED: Final = "mistill.job.answered"
MODEL: Final = "mistill.model"
"""Of runs and jobs, which have no attribute ``gen_ai``: whoever adds up tokens by these would count them twice."""
RUN_KIND: Final = "mistill.run.kind"
RUN_LANE: Final = "mistill.run.lane"
RUN_ANSWERED: Final = "mistill.run.answered"
RUN_FAILED: Final = "mistill.run.failed"
RUN_INPUT_TOKENS: Final = "mistill.run.input_tokens"
RUN_OUTPUT_TOKENS: Final = "mistill.run.output_tokens"
RUN_REQUESTS: Final = "mistill.run.requests"
RUN_STOPPED: Final = "mistill.run.stopped"

# --- metrics ----------------------------------------------------------------------------------------------------------
TOKEN_USAGE: Final = "gen_ai.client.token.usage"  # noqa: S105  the same
OPERATION_DURATION: Final = "gen_ai.client.operation.duration"
FIRST_CHUNK_DURATION: Final = "gen_ai.client.operation.time_to_first_chunk"
ATTEMPT_DURATION: Final = "http.client.request.duration"
QUEUE_DURATION: Final = "mistill.client.queue.duration"
RETRIES: Final = "mistill.client.retries"

TOKEN_BUCKETS: Final = [4**power for power in range(14)]
DURATION_BUCKETS: Final = [0.01 * 2**power for power in range(14)]
HTTP_BUCKETS: Final = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10]
"""What the conventions say of each histogram."""
