"""What every model behind an endpoint has: its address, its key, its limits, and the session that they make."""

from __future__ import annotations

import os
import weakref
from abc import abstractmethod
from collections.abc import Callable, Hashable, Mapping
from copy import copy, deepcopy
from typing import Annotated, Any, ClassVar, Self

import msgspec
from msgspec import Struct
from pydantic import Field, PrivateAttr, SecretStr, field_validator

from mistill.api.client import MistralClient
from mistill.api.dialects import DIALECTS, MISTRAL, Dialect, DialectName, dialect_of
from mistill.api.endpoint import (
    MISTRAL_ENDPOINT,
    check_may_have_key,
    is_this_machine,
    normalise_endpoint,
)
from mistill.api.models import ModelCard
from mistill.api.operation import Operation
from mistill.api.prices import context_of, factors_of, load_prices
from mistill.api.tariff import Tariff
from mistill.characters import whole_characters
from mistill.delivery.dispatcher import Dispatcher, Refuse, raise_failure
from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit, Governor
from mistill.delivery.governors import GovernorDoor, apart_governor, governor_for, limit
from mistill.delivery.persistence import ask_patiently
from mistill.errors import InputError, MalformedAnswer, NotFound
from mistill.llms.configurable import Configurable
from mistill.llms.event_loop import background
from mistill.llms.generation import Generation, Server
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.steered_pace import SteeredPace
from mistill.process import keep_unused
from mistill.telemetry.dispatchers import new_dispatcher
from mistill.telemetry.providers import Wanted, wanted
from mistill.wording import Setting, words

_MAX_KEY_CHARS = 4096
"""Of an API key: Mistral's has 32, a token of a cloud's some 2,000; a file that was pasted in its place has more."""
_API_KEY_ENV_VAR = "MISTRAL_API_KEY"
_MODELS = "the list of models"
_MAX_TIMEOUT_S = 7 * 86400
_MAX_CONCURRENT_REQUESTS = 100_000
"""Each is a worker and a connection: more is a slip of the finger."""
_PerMinute = Annotated[float, Field(ge=1e-3, le=1e12, allow_inf_nan=False)]
"""From some one a day on, to more than anybody has: beyond that it is a slip of the finger too."""


class Session(Struct):
    """What a set of settings needs at work. A change of one of them makes another session at the next call."""

    settings: tuple[Any, ...]
    client: MistralClient
    dispatcher: Dispatcher[Any]
    server: Server
    is_dialect_known: bool
    plain: dict[Hashable, Generation] = {}  # generations without a schema, by their arguments: resolved once


class Connection(Configurable):
    """A model behind an endpoint.

    Args:
        model: such as ``"mistral-small-latest"``; ``mistill models`` lists what an endpoint has.
        endpoint: base URL; a trailing slash or ``/v1`` is understood.
        api_key: from the environment variable ``MISTRAL_API_KEY`` unless given; in no repr, dump, log or error.
        max_retries: tries after the first, for failures that are a row's own.
        timeout: seconds for one attempt, from connecting to the last byte.
        max_concurrent_requests: requests in flight, over all calls, threads and event loops that use this object.
        requests_per_minute, tokens_per_minute: the quota, where it is known; else it is learned.
        prices: your own table of prices, as a path of a TOML file or a dict; goes before the shipped one.
        allow_http: whether the key may go to another machine over plain http, where whoever is on the way can read it:
            for servers of your own in a network that you trust. This machine needs no leave, nor does https.
        trace_content: whether OpenTelemetry, where it is configured, is told prompts and answers too. ``None``: if the
            environment variable ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says so; see docs/telemetry.md.
        dialect: ``"mistral"``; ``"openai"`` for servers with OpenAI's names (vLLM, llama.cpp, gateways); ``"auto"`` to
            ask the endpoint for its models at the first call, and tell by them.
    """

    kind: ClassVar[str]
    """Of which kind a run is that this model answers; see ``mistill.kinds``."""
    _secrets: ClassVar[frozenset[str]] = frozenset({"api_key"})

    model: Annotated[str, Field(min_length=1)]
    endpoint: str = MISTRAL_ENDPOINT
    api_key: RuntimeParameter[SecretStr | None] = Field(
        default_factory=lambda: _key_of_environment(),
        description="The key of Mistral's API; from the environment variable MISTRAL_API_KEY unless given.",
    )
    max_retries: RuntimeParameter[Annotated[int, Field(ge=0)]] = Field(
        default=5, description="Tries after the first, for failures that are a row's own."
    )
    timeout: RuntimeParameter[Annotated[float, Field(gt=0, le=_MAX_TIMEOUT_S, allow_inf_nan=False)]] = Field(
        default=120, description="Seconds for one attempt, from connecting to the last byte."
    )
    max_concurrent_requests: RuntimeParameter[Annotated[int, Field(ge=1, le=_MAX_CONCURRENT_REQUESTS)]] = (
        Field(default=64, description="Requests in flight, over all calls that use this object.")
    )
    requests_per_minute: RuntimeParameter[_PerMinute | None] = Field(
        default=None, description="The quota of requests; learned where it is not given."
    )
    tokens_per_minute: RuntimeParameter[_PerMinute | None] = Field(
        default=None, description="The quota of tokens; learned where it is not given."
    )
    allow_http: RuntimeParameter[bool] = Field(
        default=False, description="Whether the key may go to another machine over plain http."
    )
    trace_content: RuntimeParameter[bool | None] = Field(
        default=None,
        description="Whether OpenTelemetry is told prompts and answers too; unless set, if the environment says so.",
    )
    dialect: DialectName = "mistral"
    prices: str | dict[str, Any] | None = None

    _api_key_env_var: str = PrivateAttr(default=_API_KEY_ENV_VAR)
    _aclient: MistralClient | None = PrivateAttr(default=None)
    _session: Session | None = PrivateAttr(default=None)
    _door: GovernorDoor | None = PrivateAttr(default=None)
    _concurrency: ConcurrencyLimit = PrivateAttr(default_factory=lambda: ConcurrencyLimit(1))
    _steered_pace: SteeredPace = PrivateAttr(default_factory=SteeredPace)

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        return normalise_endpoint(endpoint)

    @field_validator("prices", mode="before")
    @classmethod
    def _read_prices(cls, prices: Any) -> Any:
        """Of a file whose name is no text, which no dump could hold, the table itself is kept."""
        if isinstance(prices, str) and prices != whole_characters(prices):
            return msgspec.to_builtins(load_prices(prices))
        return prices

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, prices: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if prices is not None:
            load_prices(prices)
        return prices

    @property
    def model_name(self) -> str:
        return self.model

    @classmethod
    def check_foreign(cls, attributes: Mapping[str, Any], source: str) -> dict[str, Any]:
        """A dump may be somebody else's, and the key is the user's: see ``mistill.api.endpoint``."""
        if (endpoint := attributes.get("endpoint")) is not None:
            check_may_have_key(str(endpoint), source)
        return {name: value for name, value in attributes.items() if name != "allow_http"}

    # --- loading ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Makes the client. Needs a key, but no network and no event loop.

        Raises:
            ValueError: there is no key.
        """
        self._open()

    def unload(self) -> None:
        """Forgets the client. Calls under way, in whatever thread, end on it; its connections close with the last."""
        # To close it would break those calls; and it closes nothing before the last of them lets go of it.
        self._aclient = self._session = None

    async def amodels(self) -> list[ModelCard]:
        """What the endpoint has. Where another attempt can help, it is asked again, for a minute at the most."""
        return await ask_patiently(self._open().client.models, _MODELS)

    def models(self) -> list[ModelCard]:
        """What the endpoint has."""
        return background.run(self.amodels())

    def _open(self, *, offline: bool = False) -> Session:
        """The session of the settings as they are now; ``offline``: for what is not sent, without a key too.

        Raises:
            InputError: there is no key, it is none, or it would be readable on its way.
        """
        key = self._key
        if (key is None or not key.get_secret_value()) and not offline:
            raise InputError(
                f"{type(self).__name__} has no api_key",
                hint=words(
                    f"set the environment variable {self._api_key_env_var}, or give ", Setting("api_key")
                ),
            )
        if key is not None and (length := len(key.get_secret_value())) > _MAX_KEY_CHARS:
            raise InputError(
                f"the api_key has {length:,} characters, and no key has more than {_MAX_KEY_CHARS:,}",
                hint=words(
                    f"look at what is in the environment variable {self._api_key_env_var}, or in ",
                    Setting("api_key"),
                ),
            )
        quota = (self.requests_per_minute, self.tokens_per_minute)
        settings = (
            *(self.endpoint, key, self.allow_http, self.timeout, self.model, self.max_retries, quota),
            *(self.dialect, self.prices, self.telemetry, self._door),
        )
        session = self._session
        if session is None or session.settings != settings:
            self._refuse_readable_key()
            session = self._session = self._new_session(settings, key.get_secret_value() if key else "")
            self._aclient = session.client
            _with_sessions[id(self)] = self
        if self._concurrency.limit != self.max_concurrent_requests:
            self._concurrency.limit = self.max_concurrent_requests
        return session

    @property
    def batch_factor(self) -> float:
        """What its price is multiplied with in the batch API."""
        return factors_of(None if self.prices is None else load_prices(self.prices)).batch

    @property
    def telemetry(self) -> Wanted | None:
        """Who is told of its requests, and what; ``None``: nobody. Requests of calls that begin from now on."""
        return wanted(self.trace_content)

    @property
    def is_ready(self) -> bool:
        """It has a key, and knows how its server speaks: what is made offline can be sent."""
        try:
            return self._open().is_dialect_known
        except InputError:
            return False

    def make_ready(self) -> None:
        """Sees to it that it is ready.

        Raises:
            InputError: there is no key.
            MistillError: the endpoint had to be asked what it is, and does not answer.
        """
        background.run(self._ready())

    def set_pace(self, pace: Mapping[str, Any]) -> None:
        """Sets how fast it goes, for what is under way too.

        Args:
            pace: ``max_concurrent_requests``, ``requests_per_minute`` and ``tokens_per_minute``, or some of them.

        Raises:
            pydantic.ValidationError: a value that does not fit; nothing is set then.
        """
        self.set_runtime_parameters(pace)
        self._concurrency.limit = self.max_concurrent_requests
        if (session := self._session) is None:
            return
        quota = (self.requests_per_minute, self.tokens_per_minute)
        if self._door is None:
            limit(session.dispatcher.governor, *quota)
        else:
            session.dispatcher.governor = self._governor()

    def join_pace(self, start: object, on_change: Callable[[], None]) -> None:
        """A start uses it until `leave_pace`; it is told, in any thread, when others changed how fast this goes."""
        self._steered_pace.join(start, on_change)

    def steer_pace(self, start: object, pace: Mapping[str, Any], until: object) -> None:
        """As `set_pace`, until ``until`` has ended: the start, or what it is a part of."""
        self._steered_pace.set(self, start, pace, until)

    def leave_pace(self, start: object) -> None:
        """The start has ended, and with it what was set until then."""
        self._steered_pace.leave(self, start)

    def keep_limits_behind(self, door: GovernorDoor) -> None:
        """``requests_per_minute`` and ``tokens_per_minute`` are of several processes together: with any set, who has
        the door is asked, and keeps to them for all; and without, where the quota is there too."""
        self._door = door

    def governor_apart(self) -> Governor:
        """A governor of this quota and these limits that this process does not use itself: for others."""
        key = self._key
        return apart_governor(
            self.endpoint,
            key.get_secret_value() if key else "",
            self.model,
            self.requests_per_minute,
            self.tokens_per_minute,
        )

    def _governor(self) -> AnyGovernor:
        quota = (self.requests_per_minute, self.tokens_per_minute)
        if self._door is not None and (self._door.has_quota or quota != (None, None)):
            return self._door.governor()
        key = self._key
        return governor_for(
            self.endpoint,
            key.get_secret_value() if key else "",
            self.model,
            requests_per_minute=quota[0],
            tokens_per_minute=quota[1],
        )

    @property
    def _key(self) -> SecretStr | None:
        return self.api_key or _key_of_environment(self._api_key_env_var)

    def _refuse_readable_key(self) -> None:
        if self.endpoint.startswith("https:") or self.allow_http or is_this_machine(self.endpoint):
            return
        raise InputError(
            f"{self.endpoint} is not encrypted: whoever is on the way there could read the key and every prompt",
            hint=words(
                "use https; or, for a server of your own in a network that you trust, set ",
                Setting("allow_http", True),
            ),
        )

    def forget_parent(self) -> None:
        """In a forked child: lets go of what only works, or is only counted, in the parent."""
        keep_unused((self._aclient, self._session))
        self._aclient = self._session = None
        self._concurrency = ConcurrencyLimit(1)
        self._steered_pace = SteeredPace()

    def _new_session(self, settings: tuple[Any, ...], key: str) -> Session:
        prices = None if self.prices is None else load_prices(self.prices)
        tariff = Tariff(self.model, self.endpoint, prices)
        client = MistralClient(self.endpoint, key, self.timeout, tariff=tariff)
        governor = self._governor()
        dialect = DIALECTS.get(self.dialect)
        server = Server(self.model, dialect or MISTRAL, tariff, context_of(self.model, prices))
        dispatcher = new_dispatcher(
            self.telemetry,
            client,
            governor,
            self._concurrency,
            operation=self._operation,
            refuse=self._refuse,
            max_retries=self.max_retries,
            model=self.model,
            provider=lambda: "mistral_ai" if server.dialect is MISTRAL else "openai",
        )
        return Session(settings, client, dispatcher, server, dialect is not None)

    @property
    @abstractmethod
    def _operation(self) -> Operation[Any]:
        """Where this model's requests go."""

    @property
    def _refuse(self) -> Refuse:
        """What raises the failure of an answer that the server gave up in the middle."""
        return raise_failure

    async def _ready(self) -> Session:
        """The session, its dialect found out where that is left to us."""
        session = self._open()
        if not session.is_dialect_known:
            session.server.dialect = await _dialect_behind(session.client)
            session.is_dialect_known = True
        return session

    # --- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[Any, Any]:
        """Settings only: a copy, here or in another process, opens connections of its own."""
        state = super().__getstate__()
        private = dict(state["__pydantic_private__"] or {})
        private |= {"_aclient": None, "_session": None, "_concurrency": None, "_steered_pace": None}
        return state | {"__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._concurrency = ConcurrencyLimit(1)
        self._steered_pace = SteeredPace()

    def __copy__(self) -> Self:
        return self._copied({name: copy(value) for name, value in self.__getstate__().items()})

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return self._copied(deepcopy(self.__getstate__(), memo))

    def _copied(self, state: dict[Any, Any]) -> Self:
        made = type(self).__new__(type(self))
        made.__setstate__(state)
        return made


_with_sessions: weakref.WeakValueDictionary[int, Connection] = weakref.WeakValueDictionary()


def _forget_parents() -> None:
    for connection in list(_with_sessions.values()):
        connection.forget_parent()
    _with_sessions.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parents)


async def _dialect_behind(client: MistralClient) -> Dialect:
    try:
        return dialect_of(await ask_patiently(client.models, _MODELS))
    except (NotFound, MalformedAnswer):
        return DIALECTS["openai"]  # Mistral's API lists its models; whatever else this is


def _key_of_environment(variable: str = _API_KEY_ENV_VAR) -> SecretStr | None:
    key = os.environ.get(variable)
    return SecretStr(key) if key else None
