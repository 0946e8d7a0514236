"""Mistral's error answers, body for body as they were seen."""

from __future__ import annotations

from typing import Any

from mistill.simulator.settings import Settings

Headers = dict[str, str]
Payload = dict[str, Any] | str


class RefusedRequest(Exception):
    """An answer with an error status, on its way out. ``payload``: JSON if a dict, else plain text."""

    def __init__(self, status: int, payload: Payload, headers: Headers | None = None) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status
        self.payload = payload
        self.headers = headers or {}


def error_body(
    message: str | dict[str, Any], error_type: str, code: str | None, param: str | None = None
) -> dict[str, Any]:
    return {"object": "error", "message": message, "type": error_type, "param": param, "code": code}


def unauthorized(settings: Settings, correlation_id: str) -> RefusedRequest:
    if settings.unauthorized_form == "detail":
        return RefusedRequest(401, {"detail": "Unauthorized"})
    return RefusedRequest(401, {"message": "Unauthorized", "request_id": correlation_id})


def not_found(path: str) -> RefusedRequest:
    return RefusedRequest(404, {"detail": f"Not Found: {path}"})


def no_such(what: str, its_id: str) -> RefusedRequest:
    return RefusedRequest(404, {"detail": f"{what} {its_id} not found"})


def billing_needed() -> RefusedRequest:
    message = "Batch inference needs billing to be enabled for this workspace."
    return RefusedRequest(402, error_body(message, "payment_required", None))


def too_large(max_bytes: int) -> RefusedRequest:
    message = f"Content is larger than {max_bytes} bytes"
    return RefusedRequest(413, error_body(message, "request_too_large", None))


def method_not_allowed(allowed: str) -> RefusedRequest:
    return RefusedRequest(405, {"detail": "Method Not Allowed"}, {"Allow": allowed})


def invalid_model(model: str) -> RefusedRequest:
    return RefusedRequest(400, error_body(f"Invalid model: {model}", "invalid_model", "1500"))


def wrong_order(message: str) -> RefusedRequest:
    return RefusedRequest(400, error_body(message, "invalid_request_message_order", "3230"))


def bad_tool_call(message: str) -> RefusedRequest:
    return RefusedRequest(400, error_body(message, "invalid_function_call", "3280"))


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> RefusedRequest:
    return RefusedRequest(400, error_body(message, "invalid_request_error", code, param))


def conflict(message: str) -> RefusedRequest:
    return RefusedRequest(409, error_body(message, "conflict", None))


def poisoned() -> RefusedRequest:
    return bad_request("The request was refused for its content", param="messages")


def too_long(prompt_tokens: int, max_context_tokens: int) -> RefusedRequest:
    message = (
        f"Prompt contains {prompt_tokens} tokens and 0 draft tokens, "
        f"too large for model with {max_context_tokens} maximum context length"
    )
    return RefusedRequest(400, error_body(message, "invalid_request_prompt", "3051"))


def too_many_tokens() -> RefusedRequest:
    return _batch_too_large("Too many tokens overall, split into more batches.")


def too_many_inputs() -> RefusedRequest:
    return _batch_too_large("Too many inputs in request, split into more batches.")


def _batch_too_large(message: str) -> RefusedRequest:
    return RefusedRequest(400, error_body(message, "invalid_request_prompt", "3210"))


def invalid_fields(details: list[dict[str, Any]], settings: Settings) -> RefusedRequest:
    """422 in the form that the settings ask for; all three were seen on Mistral's API."""
    if settings.validation_form == "detail":
        return RefusedRequest(422, {"detail": details})
    if settings.validation_form == "nested":
        return RefusedRequest(422, error_body({"detail": details}, "invalid_request_error", None))
    text = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in details)
    return RefusedRequest(422, {"detail": text})


def rate_limited(headers: Headers | None = None) -> RefusedRequest:
    return RefusedRequest(429, error_body("Rate limit exceeded", "rate_limited", "1300"), headers)


def capacity_exceeded(headers: Headers | None = None) -> RefusedRequest:
    body = error_body(
        "Service tier capacity exceeded for this model.", "service_tier_capacity_exceeded", "3505"
    )
    return RefusedRequest(429, body, headers)


def server_error(status: int) -> RefusedRequest:
    message = {500: "Internal server error", 503: "Service unavailable"}.get(status, "Server error")
    return RefusedRequest(status, error_body(message, "internal_server_error", "3000"))


def upstream_unreachable() -> RefusedRequest:
    text = "upstream connect error or disconnect/reset before headers. reset reason: connection termination"
    return RefusedRequest(503, text)


def of_status(status: int) -> RefusedRequest:
    """What Mistral usually says with this status, for faults that name nothing else."""
    if status == 401:
        return RefusedRequest(401, {"detail": "Unauthorized"})
    if status == 404:
        return RefusedRequest(404, {"detail": "Not Found"})
    if status == 429:
        return rate_limited()
    if status >= 500:
        return server_error(status)
    return RefusedRequest(status, error_body("Request refused", "invalid_request_error", None))
