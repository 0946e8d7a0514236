"""What a run asks of every row, and the fingerprint that tells one run from another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from mistill.errors import InputError
from mistill.llms import MistralEmbeddings, MistralLLM
from mistill.llms.parameters import describe_parameters
from mistill.runs.prompts import PromptTemplate, TextTemplate
from mistill.runs.row_parameters import RowParameters
from mistill.runs.work import ChatWork, EmbeddingWork, Work


class Plan(Struct, frozen=True):
    """A run's settings, resolved.

    Attributes:
        work: the settings at work.
        settings: what decides the answers: model, prompt, parameters, the columns of rows' own, schema, number of
            generations; of vectors, their dimension and dtype. JSON values.
        llm: the model as dumped, to make it again for a retry; no secret is in it. It has the endpoint, which is not
            among ``settings``: another host of the same model answers the same rows.
    """

    work: Work[Any]
    settings: dict[str, Any]
    llm: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """The same for the same settings, in every process and version of Python."""
        return hashlib.blake2b(msgspec.json.encode(self.settings, order="sorted"), digest_size=16).hexdigest()


def make_plan(
    llm: MistralLLM,
    template: PromptTemplate,
    *,
    num_generations: int = 1,
    parameters: dict[str, Any] | None = None,
    row_parameters: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of a run that wants completions, everything in it checked.

    Args:
        parameters: generation parameters over the LLM's own ``generation_kwargs``.
        row_parameters: generation parameter → the column that has each row's own, over those.

    Raises:
        InputError: a parameter or a schema is wrong, or there is no key.
    """
    given = llm.generation_kwargs | (parameters or {})
    generation = llm.generation(num_generations, **given)
    structured = generation.structured
    of_rows = RowParameters(row_parameters or {})
    settings = {
        "model": llm.model,
        "prompt": template.describe(),
        "parameters": msgspec.to_builtins(generation.parameters),
        "extra_body": given.get("extra_body"),
        "row_parameters": of_rows.columns,
        "schema": None if structured is None else structured.schema.fingerprint(),
        "schema_mode": None if structured is None else structured.mode,
        "num_generations": num_generations,
    }
    dumped = llm.dump() | {"generation_kwargs": describe_parameters(given, generation.parameters)}
    return Plan(ChatWork(generation, template, of_rows), settings, dumped)


def make_embedding_plan(embeddings: MistralEmbeddings, template: TextTemplate, **of_completions: Any) -> Plan:
    """The plan of a run that wants vectors.

    Args:
        of_completions: settings that only completions have, by their name; none may be set.

    Raises:
        InputError: one of them is, or there is no key.
    """
    for name, value in of_completions.items():
        if value:
            raise InputError(f"{name}={value!r}: embeddings have no such setting", hint="leave it out")
    embedder = embeddings.embedder(keeps_values=False)
    settings = {
        "model": embeddings.model,
        "prompt": template.describe(),
        "embeddings": msgspec.structs.asdict(embedder.parameters),
    }
    return Plan(EmbeddingWork(embedder, template), settings, embeddings.dump())
