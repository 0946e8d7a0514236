"""Runs of chat completions: a prompt for each row, completions for each prompt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import msgspec
from msgspec import field

from mistill.api.chat import CHAT, ChatResponse, is_given_up
from mistill.api.dialects import MISTRAL
from mistill.api.prices import cached_factor
from mistill.api.usage import UsageInfo, usage_of
from mistill.datasets.sources import Row
from mistill.datasets.sources.media_files import media_kind
from mistill.delivery.cache_key import CacheKey
from mistill.delivery.dispatcher import Delivered, Send
from mistill.errors import InputError, MalformedAnswer, WrongFile
from mistill.finish_reasons import REPETITION
from mistill.kinds.kind import (
    MARK_COLUMNS,
    AnswerFields,
    AnswerReader,
    Kind,
    RequestSize,
    digest,
    usage_in,
    warn_of_doubts,
)
from mistill.kinds.manifest import RunManifest
from mistill.kinds.options import RunOptions
from mistill.ledger import AnswerTerms, PaidAnswer
from mistill.llms.completions import kept_answer, kept_completions
from mistill.llms.content import with_chunks
from mistill.llms.generation import Generation, Prompt
from mistill.llms.mistral import MistralLLM
from mistill.llms.parameters import SETTING_NAMES, describe_parameters
from mistill.llms.types import Completion, Outcome
from mistill.prompts.attachments import OPTION_OF, AttachedColumns, AttachedPrompt, attached_options
from mistill.prompts.beginnings import Beginnings, Met
from mistill.prompts.cache_keys import CacheKeys
from mistill.prompts.prompt_layout import PromptLayout
from mistill.prompts.prompt_template import PromptDescription, PromptTemplate
from mistill.prompts.row_errors import change_error
from mistill.prompts.row_parameters import RowParameters
from mistill.struct_types import look_at
from mistill.structured.repair import answer_text, before_repetition, read_answer
from mistill.structured.schema import OutputSchema, compile_schema
from mistill.structured.structured_output import compile_structured_output
from mistill.wording import Setting, words

_LOOKED_AT = 100
_log = logging.getLogger("mistill")


class ChatManifest(RunManifest, frozen=True, kw_only=True):
    """What decides the answers of a run of chat completions.

    Attributes:
        prompt: how a row becomes messages.
        parameters: generation parameters as they go out. ``extra_body``: fields that this library does not know.
        row_parameters: generation parameter → the column with each row's own.
        schema: fingerprint of what answers must fit. ``schema_mode``: how the server is asked for it.
    """

    kind: str = "chat"
    prompt: PromptDescription
    parameters: dict[str, Any] = field(default_factory=dict[str, Any])
    extra_body: dict[str, Any] | None = None
    row_parameters: dict[str, str] = field(default_factory=dict[str, str])
    schema: str | None = None
    schema_mode: str | None = None
    num_generations: int = 1

    def settings(self) -> dict[str, Any]:
        parameters = {SETTING_NAMES.get(name, name): value for name, value in self.parameters.items()}
        found = {
            **super().settings(),
            "prompt": self.prompt["prompt"],
            "system": self.prompt["system"],
            **attached_options(self.prompt),
            **parameters,
            "extra_body": self.extra_body,
            "row_parameters": self.row_parameters or None,
            "schema": self.schema,
            "schema_mode": self.schema_mode,
            "num_generations": self.num_generations,
        }
        return {name: value for name, value in found.items() if value is not None}

    def options(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt["prompt"],
            "system": self.prompt["system"],
            **attached_options(self.prompt),
            "num_generations": self.num_generations,
            "row_parameters": self.row_parameters,
        }


class ChatReader(AnswerReader):
    """Reads chat completions; with a schema, each with its value. ``InvalidOutput`` where one does not fit."""

    def __init__(self, schema: OutputSchema | None = None, num_generations: int = 1) -> None:
        self.schema = schema
        self.num_generations = num_generations

    def read(self, body: bytes) -> list[Completion]:
        completions, schema = kept_completions(body), self.schema
        if schema is None:
            return completions[: self.num_generations]
        return [
            _with_value(one, schema) for one in completions[:1]
        ]  # several with a schema are asked for one by one

    def fields(self, bodies: Sequence[bytes], *, several: bool) -> AnswerFields:
        completions = self._wanted([self.read(body) for body in bodies])
        is_empty = any(one.is_empty for one in completions)
        if several:
            columns = {
                "generation": [one.text for one in completions],
                "thinking": [one.thinking for one in completions],
                "tool_calls": [one.tool_calls or None for one in completions],
                "model": completions[0].model if completions else None,
            }
            return AnswerFields(columns, [one.value for one in completions], is_empty)
        if not completions:
            return AnswerFields({})
        first = completions[0]
        columns = {
            "generation": first.text,
            "thinking": first.thinking,
            "tool_calls": first.tool_calls or None,
            "model": first.model,
        }
        return AnswerFields(columns, first.value, is_empty)

    def _wanted(self, answers: Sequence[list[Completion]]) -> list[Completion]:
        """As many as a row is to have: some of each answer, however many more its server gave unasked."""
        wanted: list[Completion] = []
        for later, completions in zip(range(len(answers) - 1, -1, -1), answers, strict=True):
            wanted += completions[: max(1, self.num_generations - len(wanted) - later)]
        return wanted


class ChatKind(Kind[Prompt | AttachedPrompt]):
    """A prompt for each row, completions for each prompt.

    Args:
        llm: its own ``generation_kwargs`` and ``structured_output`` hold where the options say nothing else.
    """

    manifest_type = ChatManifest
    columns: ClassVar = ("generation", "finish_reason", "input_tokens", "output_tokens", "error")
    extra_columns: ClassVar = (
        "thinking",
        "tool_calls",
        "cost",
        "model",
        "prompt",
        "raw",
        "settings",
        *MARK_COLUMNS,
    )
    row_columns: ClassVar = ("messages", "prompt")
    batch_path: ClassVar = CHAT.path

    def __init__(self, llm: MistralLLM, options: RunOptions) -> None:
        template = PromptTemplate(prompt=options.prompt, system=options.system, has_media=True)
        self.attached = AttachedColumns(options.images, options.documents, options.audio)
        self.attached.check_once()
        self.reads_files = bool(self.attached)
        given = llm.generation_kwargs | options.parameters
        self.generation = generation = llm.generation(
            options.num_generations, offline=True, loop_guard=options.loop_guard, **given
        )
        if options.loop_guard and options.lane == "batch":
            _log.warning(
                words(Setting("loop_guard", True), " watches requests that go live: jobs give answers whole")
            )
        if options.loop_guard and not generation.is_watched:
            _raise_unwatched(generation)
        self.row_parameters = RowParameters(options.row_parameters)
        self.num_generations = options.num_generations
        self.dispatcher = generation.dispatcher
        self.server = generation.server
        self.may_be_priority = self.server.dialect is MISTRAL and (
            generation.parameters.service_tier != "standard_only"
            or "service_tier" in self.row_parameters.columns
        )
        structured = generation.structured
        self.reader = ChatReader(structured.schema if structured else None, options.num_generations)
        self.manifest = ChatManifest(
            model=llm.model,
            prompt=self.attached.describe(template.describe()),
            parameters=msgspec.to_builtins(generation.parameters),
            extra_body=generation.extra_body,
            row_parameters=self.row_parameters.columns,
            schema=structured.schema.fingerprint() if structured else None,
            schema_mode=structured.mode if structured else None,
            num_generations=options.num_generations,
        )
        described = describe_parameters(given, generation.parameters)
        self.llm_settings = llm.dump() | {"generation_kwargs": described}
        self._uses_cache, self._goes_by_jobs = options.prompt_cache, options.goes_by_jobs
        self._rows_have_parameters = bool(self.row_parameters)
        self._template = template

    @classmethod
    def reader_of(
        cls,
        manifest: ChatManifest,
        llm: Mapping[str, Any],
        schema: Any = None,
        *,
        trust: bool = False,
    ) -> AnswerReader:
        if schema is not None:
            return ChatReader(compile_schema(schema), manifest.num_generations)
        setting = llm.get("structured_output")
        if setting is None:
            return ChatReader(None, manifest.num_generations)
        restored = MistralLLM.restore_attribute("structured_output", setting, trust=trust)
        return ChatReader(compile_structured_output(restored).schema, manifest.num_generations)

    @classmethod
    def prompts_of(cls, manifest: ChatManifest) -> Callable[[Row], Any]:
        described = manifest.prompt
        template = PromptTemplate(prompt=described["prompt"], system=described["system"])
        attached = AttachedColumns.described(described)
        if not attached:
            return template.render
        return lambda row: with_chunks(template.render(row), attached.shown(row))

    @classmethod
    def sent_of(cls, manifest: ChatManifest) -> Callable[[Row, bytes | None], list[dict[str, Any]]]:
        """What makes the whole of what a row sent, its files read once more; it is given the row's digest of then.

        It raises as `prepare` does, and ``WrongFile`` where a file is not there any more, or another than it was.
        """
        described = manifest.prompt
        template = PromptTemplate(prompt=described["prompt"], system=described["system"])
        attached = AttachedColumns.described(described)

        def sent(row: Row, digest_then: bytes | None) -> list[dict[str, Any]]:
            messages = template.render(row)
            if not attached:
                return messages
            try:
                (digest_now,) = attached.digests([row])
                chunks = [one.chunk() for one in attached.of(row)]
            except InputError as error:
                raise WrongFile(error.message, hint=error.hint, index=row.index) from error
            if digest_then is not None and digest_now != digest_then:
                raise WrongFile(change_error("a file of it", row).message, index=row.index)
            return with_chunks(messages, chunks) if chunks else messages

        return sent

    @classmethod
    def text_of(cls, body: bytes) -> str:
        try:
            completions = kept_completions(body)
        except MalformedAnswer:
            return body.decode(errors="replace")
        texts = [
            one.text or msgspec.json.encode(one.tool_calls).decode() if one.text or one.tool_calls else ""
            for one in completions
        ]
        return "\n".join(texts)

    @classmethod
    def model_of(cls, body: bytes) -> str | None:
        try:
            return _decode_model(body).model
        except msgspec.DecodeError:  # in a form that takes patience
            with suppress(ValueError):
                return CHAT.decode(body).model
            return None

    @classmethod
    def terms_of(cls, body: bytes) -> AnswerTerms | None:
        try:
            said = _decode_terms(body)
        except msgspec.DecodeError:  # in a form that takes patience
            try:
                said = CHAT.decode(body)
            except ValueError:
                return None
        info = said.usage
        if info is None:
            return AnswerTerms(said.model, has_usage=False)
        usage = usage_of(said)
        return AnswerTerms(
            said.model,
            info.service_tier,
            usage.audio_seconds,
            usage.input_tokens,
            usage.output_tokens,
            has_usage=True,
        )

    def check_source(self, header: Sequence[str] | None, media_kinds: frozenset[str]) -> None:
        super().check_source(header, frozenset())
        if header is not None:
            self.attached.check_columns(header)
        sent = self.attached.kinds_of("file")
        if media_kinds and (not self.reads_files or (sent and media_kinds.isdisjoint(sent))):
            named = [Setting(OPTION_OF[kind], ["file"]) for kind in sorted(media_kinds)]
            hint = words("send them: ", named[0], *(part for one in named[1:] for part in (", ", one)))
            what = f"none of them is of the kind {' or '.join(sent)}" if sent else "nothing sends the files"
            raise InputError(f"the rows are the names of files, and {what}", hint=hint)

    def digests(self, rows: Sequence[Row]) -> list[bytes]:
        return self.attached.digests(rows) if self.reads_files else super().digests(rows)

    def prepare(self, row: Row) -> Prompt | AttachedPrompt:
        generation = self.generation
        if self._rows_have_parameters:
            generation = self.row_parameters.apply(generation, row)
        if row.index <= 1 and not self.reads_files:
            self._warn(row)
        prompt = generation.check(self._template.render(row))
        if not self.reads_files or not (attachments := self.attached.of(row)):
            return prompt
        prompt.check_takes_files()
        return AttachedPrompt(prompt, attachments)

    def _warn(self, row: Row) -> None:
        """Whoever writes the name of an image into a prompt means the image, mostly."""
        if not self._rows_have_parameters:
            warn_of_doubts(self._template.doubts(row))
        for column in self._template.written_files(row) if row.index == 0 else ():
            option = OPTION_OF[media_kind(row.record[column]) or "image"]
            name = f"the prompt has the name of a file as text, from the column {column!r}; to send the file itself: "
            _log.warning(words(name, Setting(option, [column])))

    def fingerprint(self, prepared: Prompt | AttachedPrompt) -> bytes:
        if isinstance(prepared, AttachedPrompt):
            return digest(b"".join((self.fingerprint(prepared.prompt), *prepared.digests)))
        if not self._rows_have_parameters:
            return digest(prepared.messages)
        own = prepared.generation
        return digest(_encode_sorted((msgspec.Raw(prepared.messages), own.parameters, own.extra_body)))

    def files_of(self, prepared: Prompt | AttachedPrompt) -> str:
        return prepared.files if isinstance(prepared, AttachedPrompt) else ""

    def size_of(self, prepared: Prompt | AttachedPrompt) -> RequestSize:
        attached = 0
        if isinstance(prepared, AttachedPrompt):
            prepared, attached = prepared.prompt, prepared.tokens
        generation = prepared.generation
        most, requests = generation.parameters.max_tokens, generation.requests_each
        return RequestSize(
            (prepared.estimated_tokens() + attached) * requests,
            most and most * self.num_generations,
            requests,
        )

    def met(self, prepared: Prompt | AttachedPrompt, key: CacheKey | None) -> Met:
        # What is attached stands behind it, and is seldom the same.
        prompt = prepared.prompt if isinstance(prepared, AttachedPrompt) else prepared
        sent = None if key is None else key.field
        # A key of the user's own may be of prompts with other tools or schemas, which stand before the messages.
        return Met.of(prompt.generation.before_messages if sent is None else sent, prompt.messages)

    @property
    def rows_have_limits(self) -> bool:
        return self._rows_have_parameters

    def cache_keys(self) -> CacheKeys | None:
        if not self._uses_cache:
            return None
        return CacheKeys(
            self.manifest.values(),
            self.generation,
            self._layout,
            systems_differ=self._template.systems_differ,
        )

    def see_first(self, prepared: Sequence[Prompt | AttachedPrompt]) -> None:
        layout = self.cached_layout
        if layout is None or not layout.early or self._goes_by_jobs:
            return
        first, seen = prepared[:_LOOKED_AT], Beginnings()
        found_of = [seen.ask(self.met(one, None)) for one in first]
        later = found_of[len(found_of) // 2 :]  # by then others have had what a column has
        found = sum(later) / len(later)
        tokens = sum(self.size_of(one).input_tokens / self.generation.requests_each for one in first) / len(
            first
        )
        saves = layout.saves(tokens, found, cached_factor(self.server.price))
        if saves is not None:
            _log.warning("%s: %s", layout.where(tokens), layout.hint(saves))

    @property
    def cached_layout(self) -> PromptLayout | None:
        is_told = self._uses_cache or self.generation.parameters.prompt_cache_key is not None
        return self._layout if is_told and self.server.dialect is MISTRAL else None

    @cached_property
    def _layout(self) -> PromptLayout:
        return self._template.layout(tool_tokens=self.generation.tool_tokens)

    def answer(
        self, prepared: Sequence[Prompt | AttachedPrompt], send: Send[ChatResponse]
    ) -> Coroutine[Any, Any, tuple[Outcome]]:
        (prompt,) = prepared
        return prompt.outcomes(send)

    def delivered(self, answer: PaidAnswer) -> Delivered[ChatResponse]:
        found = kept_answer(answer.body, usage=usage_in(answer), cost=answer.cost, recorded=(answer.attempt,))
        if all(map(is_given_up, found.answer.response.choices)):
            raise MalformedAnswer("what the ledger has is an answer with nothing in it")
        return found


class _Named(msgspec.Struct):
    model: str | None = None


class _Billed(msgspec.Struct):
    model: str | None = None
    usage: UsageInfo | None = None


_decode_terms = msgspec.json.Decoder(_Billed).decode
_decode_model = msgspec.json.Decoder(_Named).decode
_encode_sorted = msgspec.json.Encoder(order="sorted").encode


def _raise_unwatched(generation: Generation) -> NoReturn:
    structured = generation.structured
    why = "answers that are to be JSON, and this run asks for none"
    hint = words("give a schema with ", Setting("structured_output"), ", or leave it out")
    if structured is not None:
        why = f'the texts of answers, and in the mode "{structured.mode}" they are none of JSON'
        hint = words("leave it out, or the mode")
    elif generation.parameters.response_format is not None:
        why = "one answer a request, without logprobs"
        hint = "leave it out"
    raise InputError(words(Setting("loop_guard", True), f" watches {why}"), hint=hint)


def _with_value(completion: Completion, schema: OutputSchema) -> Completion:
    # In tool modes the answer is the arguments of a call.
    text = answer_text(completion.text, completion.tool_calls)
    if completion.finish_reason == REPETITION:
        text = before_repetition(text)
    parsed = read_answer(schema, text)
    return msgspec.structs.replace(completion, text=parsed.text, value=parsed.value)


look_at(ChatManifest)
