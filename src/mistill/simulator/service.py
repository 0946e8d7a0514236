"""The HTTP service: one request in, one answer or one fault out. Runs in one event loop."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time

from aiohttp import web
from aiohttp.web_request import BaseRequest

from mistill.simulator import catalogue, payloads, refusals, requests
from mistill.simulator.draft_faults import reshape
from mistill.simulator.drafts import compose, count_prompt_tokens
from mistill.simulator.faults import Answer, Fault, FaultDice, Script
from mistill.simulator.rate_limiter import RateLimiter
from mistill.simulator.refusals import RefusedRequest
from mistill.simulator.reply import Reply
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import NO_WHOLE_ANSWER, STATS_PATH, Received, Traffic

_HTML = (
    "<!DOCTYPE html><html><head><title>Please wait</title></head><body>Checking your browser</body></html>"
)
_BEFORE_ANSWER = frozenset({"429", "capacity", "500", "503", "503_text", "disconnect", "html", "status"})


class Service:
    """State of the simulated server. ``settings`` may be replaced at any time, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.traffic = Traffic(settings.requests_kept)
        self.script = Script()
        self.outage_is_on = False
        self._rng = random.Random(settings.seed)  # noqa: S311  faults must be repeatable, not secret
        self._rate_limiter = RateLimiter(time.monotonic)
        self.settings = settings
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Work by these settings from the next request on."""
        if settings.seed != self.settings.seed:
            self._rng.seed(settings.seed)
        self.traffic.keep(settings.requests_kept)
        self._dice = FaultDice(settings.faults, self._rng)
        self._keys = None
        if settings.api_keys is not None:
            self._keys = frozenset(key.get_secret_value() for key in settings.api_keys)
        self.settings = settings

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        if request.path == STATS_PATH and request.method == "GET":
            return web.Response(body=payloads.encode(self.traffic.stats()), content_type="application/json")
        raw = await request.content.read()
        received = Received(request.method, request.path, _without_key(request), raw, time.time())
        correlation_id = _uuid()
        self.traffic.enter(received)
        reply = Reply(request, self.traffic, received, correlation_id)
        try:
            return await self._answer(request, received, raw, reply)
        except RefusedRequest as refusal:
            return reply.refuse(refusal)
        except ConnectionResetError:
            return reply.disconnect()  # the client went away in the middle of its answer
        finally:
            self.traffic.leave(received, NO_WHOLE_ANSWER)

    async def _answer(
        self, request: BaseRequest, received: Received, raw: bytes, reply: Reply
    ) -> web.StreamResponse:
        settings = self.settings
        if self.outage_is_on:
            if settings.outage == "503":
                raise refusals.upstream_unreachable()
            return reply.disconnect()
        key = self._key_of(request, reply.correlation_id)
        path = request.path.rstrip("/")
        if path == "/v1/chat/completions":
            _require(request, "POST")
            return await self._chat(raw, key, received, reply)
        if path == "/v1/embeddings":
            _require(request, "POST")
            return await self._embeddings(raw, key, received, reply)
        _require(request, "GET", otherwise=refusals.not_found(request.path))
        found = catalogue.find(path, settings)
        if found is None:
            raise refusals.not_found(request.path)
        return reply.whole(found, {})

    async def _chat(self, raw: bytes, key: int, received: Received, reply: Reply) -> web.StreamResponse:
        settings = self.settings
        scripted, fault = self._what_comes_next(received)
        early = await self._before_answer(fault, reply)
        if early is not None:
            return early
        request = requests.decode_chat(raw, settings)
        prompt_tokens = count_prompt_tokens(request)
        if prompt_tokens > settings.max_context_tokens:
            raise refusals.too_long(prompt_tokens, settings.max_context_tokens)
        self._admit(key, request.model, settings)
        drafts = compose(request, settings, prompt_tokens, scripted.text if scripted else None)
        if fault:
            drafts = reshape(drafts, fault.name)
        completion_tokens = sum(draft.completion_tokens for draft in drafts)
        await self._wait(0 if request.stream else completion_tokens)
        headers = self._rate_limiter.settle(key, request.model, settings, prompt_tokens + completion_tokens)
        self.traffic.bill(prompt_tokens, completion_tokens)
        usage = None
        if not (fault and fault.name == "missing_usage"):
            usage = payloads.usage_body(prompt_tokens, completion_tokens, settings.cached_share)
        answer_id = secrets.token_hex(16)
        if request.stream:
            events = payloads.stream_events(answer_id, request.model, drafts, usage)
            return await reply.stream(events, headers, fault, settings.token_time_s)
        answer = payloads.whole_answer(answer_id, request.model, drafts, usage)
        return await reply.whole_or_broken(answer, headers, fault)

    async def _embeddings(self, raw: bytes, key: int, received: Received, reply: Reply) -> web.StreamResponse:
        settings = self.settings
        _, fault = self._what_comes_next(received)
        early = await self._before_answer(fault, reply)
        if early is not None:
            return early
        request = requests.decode_embedding(raw, settings)
        answer = catalogue.embeddings(request, settings)
        self._admit(key, request.model, settings)
        await self._wait(0)
        headers = self._rate_limiter.settle(key, request.model, settings, answer["usage"]["total_tokens"])
        self.traffic.bill(answer["usage"]["total_tokens"], 0)
        return await reply.whole_or_broken(answer, headers, fault)

    def _what_comes_next(self, received: Received) -> tuple[Answer | None, Fault | None]:
        """From the script if it has something for this request, else from the dice."""
        scripted = self.script.take(lambda: received.body or {})
        if isinstance(scripted, Fault):
            return None, scripted
        return scripted, None if scripted else self._dice.throw()

    async def _before_answer(self, fault: Fault | None, reply: Reply) -> web.StreamResponse | None:
        """Faults that leave no answer, and the delay. They use up no quota."""
        if fault is None:
            return None
        if fault.name == "delay":
            await asyncio.sleep(fault.delay_s)
        if fault.name not in _BEFORE_ANSWER:
            return None
        await self._wait(0)
        if fault.name == "disconnect":
            return reply.disconnect()
        if fault.name == "html":
            return reply.html(_HTML)
        raise _refusal_of(fault)

    def _admit(self, key: int, model: str, settings: Settings) -> None:
        self._rate_limiter.admit(key, model, settings)
        if settings.max_in_flight is not None and self.traffic.in_flight > settings.max_in_flight:
            raise refusals.capacity_exceeded(self._rate_limiter.headers(key, model, settings, 0))

    def _key_of(self, request: BaseRequest, correlation_id: str) -> int:
        """A number that stands for the key, so that the key itself is held nowhere."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or (self._keys is not None and key not in self._keys):
            raise refusals.unauthorized(self.settings, correlation_id)
        return hash(key)

    async def _wait(self, tokens: int) -> None:
        settings = self.settings
        latency_s = settings.latency_s
        if latency_s and settings.latency_distribution == "uniform":
            latency_s *= 1 + settings.latency_spread * self._rng.uniform(-1, 1)
        elif latency_s and settings.latency_distribution == "lognormal":
            latency_s *= math.exp(settings.latency_spread * self._rng.gauss(0, 1))
        latency_s += tokens * settings.token_time_s
        if latency_s > 0:
            await asyncio.sleep(latency_s)


def _refusal_of(fault: Fault) -> RefusedRequest:
    match fault.name:
        case "429":
            return refusals.rate_limited()
        case "capacity":
            return refusals.capacity_exceeded()
        case "503_text":
            return refusals.upstream_unreachable()
        case "500" | "503":
            return refusals.server_error(int(fault.name))
        case _:
            refusal = refusals.of_status(fault.http_status)
            payload = refusal.payload if fault.payload is None else fault.payload
            return RefusedRequest(fault.http_status, payload, fault.headers)


def _require(request: BaseRequest, method: str, otherwise: RefusedRequest | None = None) -> None:
    if request.method != method:
        raise otherwise or refusals.method_not_allowed(method)


def _without_key(request: BaseRequest) -> dict[str, str]:
    headers = {name.lower(): value for name, value in request.headers.items()}
    if "authorization" in headers:
        headers["authorization"] = "present"
    return headers


def _uuid() -> str:
    digits = secrets.token_hex(16)
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
