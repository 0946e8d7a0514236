"""`MistralLLM`: Mistral's chat models, over many prompts at once."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Annotated, Any, ClassVar, Self, Unpack

from msgspec import Struct
from pydantic import Field, PrivateAttr, SecretStr, field_validator

from mistill.api.client import MistralClient, ModelCard, normalise_endpoint
from mistill.api.dialects import DIALECTS, DialectName
from mistill.api.errors import InputError
from mistill.api.prices import Price, load_prices, price_of
from mistill.delivery.dispatcher import Dispatcher
from mistill.delivery.governor import Lane, governor_for
from mistill.delivery.retry import BACKOFF_BASE_S
from mistill.llms.base import AsyncLLM
from mistill.llms.event_loop import background
from mistill.llms.generation import Generation, Server
from mistill.llms.parameters import PARAMETERS, GenerationParameters, check_parameters
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.types import FormattedInput
from mistill.structured.settings import compile_structured_output

_API_KEY_ENV_VAR = "MISTRAL_API_KEY"


class _Session(Struct):
    """What a set of settings needs at work. A change of one of them makes another session at the next call."""

    settings: tuple[Any, ...]
    client: MistralClient
    dispatcher: Dispatcher
    server: Server


class MistralLLM(AsyncLLM):
    """A Mistral model, or any server that speaks Mistral's chat API.

    Args:
        model: such as ``"mistral-small-latest"``; ``mistill models`` lists what an endpoint has.
        endpoint: base URL; a trailing slash or ``/v1`` is understood.
        api_key: from the environment variable ``MISTRAL_API_KEY`` unless given; in no repr, dump, log or error.
        max_retries: tries after the first, for failures that are a row's own.
        timeout: seconds for one attempt, from connecting to the last byte.
        max_concurrent_requests: requests in flight, over all calls, threads and event loops that use this object.
        structured_output: ``{"schema": …}``: what answers must fit, see docs/structured-output.md.
        requests_per_minute, tokens_per_minute: the quota, where it is known; else it is learned.
        prices: your own table of prices, as a path of a TOML file or a dict; goes before the shipped one.
        dialect: ``"mistral"``, or ``"openai"`` for servers with OpenAI's names (vLLM, llama.cpp, gateways).

    Example:
        >>> llm = MistralLLM(model="open-mixtral-8x22b")  # doctest: +SKIP
        >>> llm.generate(inputs=[[{"role": "user", "content": "Hello world!"}]])  # doctest: +SKIP
        [['Hello! How can I help you today?']]
    """

    _secrets: ClassVar[frozenset[str]] = frozenset({"api_key"})

    model: Annotated[str, Field(min_length=1)]
    endpoint: str = "https://api.mistral.ai"
    api_key: RuntimeParameter[SecretStr | None] = Field(
        default_factory=lambda: _key_of_environment(),
        description="The key of Mistral's API; from the environment variable MISTRAL_API_KEY unless given.",
    )
    max_retries: RuntimeParameter[Annotated[int, Field(ge=0)]] = Field(
        default=5, description="Tries after the first, for failures that are a row's own."
    )
    timeout: RuntimeParameter[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=120, description="Seconds for one attempt, from connecting to the last byte."
    )
    max_concurrent_requests: RuntimeParameter[Annotated[int, Field(ge=1)]] = Field(
        default=64, description="Requests in flight, over all calls that use this object."
    )
    structured_output: RuntimeParameter[dict[str, Any] | None] = Field(
        default=None, description="What answers must fit: schema, and if wanted mode and max_retries."
    )
    requests_per_minute: RuntimeParameter[Annotated[float, Field(gt=0)] | None] = Field(
        default=None, description="The quota of requests; learned where it is not given."
    )
    tokens_per_minute: RuntimeParameter[Annotated[float, Field(gt=0)] | None] = Field(
        default=None, description="The quota of tokens; learned where it is not given."
    )
    dialect: DialectName = "mistral"
    prices: str | dict[str, Any] | None = None

    _api_key_env_var: str = PrivateAttr(default=_API_KEY_ENV_VAR)
    _aclient: MistralClient | None = PrivateAttr(default=None)
    _session: _Session | None = PrivateAttr(default=None)
    _lane: Lane | None = PrivateAttr(default=None)
    _backoff_base_s: float = PrivateAttr(default=BACKOFF_BASE_S)

    @field_validator("endpoint")
    @classmethod
    def _check_endpoint(cls, endpoint: str) -> str:
        return normalise_endpoint(endpoint)

    @field_validator("structured_output")
    @classmethod
    def _check_structured_output(cls, setting: dict[str, Any] | None) -> dict[str, Any] | None:
        if setting is not None:
            compile_structured_output(setting)
        return setting

    @field_validator("generation_kwargs")
    @classmethod
    def _check_generation_kwargs(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        check_parameters(arguments)
        return arguments

    @field_validator("prices")
    @classmethod
    def _check_prices(cls, prices: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
        if prices is not None:
            load_prices(prices)
        return prices

    @property
    def model_name(self) -> str:
        return self.model

    # --- loading ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Makes the client. Needs a key, but no network and no event loop.

        Raises:
            ValueError: there is no key.
        """
        self._open()

    def unload(self) -> None:
        """Closes idle connections and forgets the client."""
        client, self._aclient, self._session = self._aclient, None, None
        if client is not None:
            background.run(client.close())

    def _open(self) -> _Session:
        """The session of the settings as they are now."""
        key = self.api_key or _key_of_environment(self._api_key_env_var)
        if key is None or not key.get_secret_value():
            raise InputError(
                f"{type(self).__name__} has no api_key",
                hint=f"set the environment variable {self._api_key_env_var}, or pass api_key=…",
            )
        quota = (self.requests_per_minute, self.tokens_per_minute)
        settings = (self.endpoint, key, self.timeout, self.model, self.max_retries, quota, self.dialect)
        session = self._session
        if session is None or session.settings != settings:
            session = self._session = self._new_session(settings, key.get_secret_value())
            self._aclient = session.client
        lane = self._lane
        if lane is not None and lane.limit != self.max_concurrent_requests:
            lane.limit = self.max_concurrent_requests
        return session

    def _new_session(self, settings: tuple[Any, ...], key: str) -> _Session:
        client = MistralClient(self.endpoint, key, self.timeout)
        governor = governor_for(self.endpoint, key, self.model)
        if self.requests_per_minute is not None or self.tokens_per_minute is not None:
            governor.set_quota(self.requests_per_minute, self.tokens_per_minute)
        if self._lane is None:
            self._lane = Lane(self.max_concurrent_requests)
        dispatcher = Dispatcher(
            client, governor, self._lane, max_retries=self.max_retries, backoff_base_s=self._backoff_base_s
        )
        return _Session(
            settings, client, dispatcher, Server(self.model, DIALECTS[self.dialect], self._price())
        )

    def _price(self) -> Price | None:
        return price_of(self.model, None if self.prices is None else load_prices(self.prices))

    # --- generating -------------------------------------------------------------------------------------------------

    async def agenerate(
        self,
        input: FormattedInput,  # noqa: A002  the seed's name
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        **more: Unpack[GenerationParameters],
    ) -> list[str | None]:
        """The text for one input, as a list of one.

        Args:
            input: a list of messages, a string, or ``(messages, structured_output)``.
            max_new_tokens: most tokens of the answer.
            temperature: 0 to 1.5.
            top_p: above 0 and at most 1.
            more: see `PARAMETERS` in ``mistill.llms.parameters``.

        Raises:
            InputError: the input or an argument is wrong; nothing was sent.
            MistillError: no retry could help, or none was left.
        """
        given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        return [completion.text for completion in await self.acomplete(input, **given, **more)]

    def generation(self, num_generations: int = 1, **generation_kwargs: Any) -> Generation:
        """The settings of a call, checked and resolved: the object's ``generation_kwargs``, then the call's own."""
        if not isinstance(num_generations, int) or num_generations < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError(f"num_generations must be an integer of 1 or more, not {num_generations!r}")
        setting = generation_kwargs.pop("structured_output", self.structured_output)
        given = {name: value for name, value in generation_kwargs.items() if value is not None}
        arguments = self.generation_kwargs | given
        session = self._open()
        return Generation(
            session.dispatcher,
            session.server,
            check_parameters(arguments),
            extra_body=arguments.get("extra_body"),
            structured=compile_structured_output(setting) if setting is not None else None,
            num_generations=num_generations,
        )

    async def amodels(self) -> list[ModelCard]:
        """What the endpoint has."""
        return await self._open().client.models()

    @property
    def _most_at_once(self) -> int:
        return self.max_concurrent_requests

    def _generation_arguments(self) -> dict[str, tuple[bool, str | None]]:
        return {name: (True, description) for name, description in PARAMETERS.items()}

    # --- copies -----------------------------------------------------------------------------------------------------

    def __getstate__(self) -> dict[Any, Any]:
        """Settings only: a copy, here or in another process, opens connections of its own."""
        state = super().__getstate__()
        private = dict(state["__pydantic_private__"] or {})
        private |= {"_aclient": None, "_session": None, "_lane": None}
        return state | {"__pydantic_private__": private}

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        copy = type(self).__new__(type(self))
        copy.__setstate__(deepcopy(self.__getstate__(), memo))
        return copy


def _key_of_environment(variable: str = _API_KEY_ENV_VAR) -> SecretStr | None:
    key = os.environ.get(variable)
    return SecretStr(key) if key else None
