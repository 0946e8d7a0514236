"""A Mistral model over a dataset: as fast as the quota allows, nothing lost, nothing paid twice."""

from typing import TYPE_CHECKING, Any

from mistill._version import __version__

if TYPE_CHECKING:
    from mistill.curation.near_duplicates import Deduped, NearDuplicate, dedupe
    from mistill.errors import (
        AnswerWithoutFields,
        APIError,
        AttemptTimeout,
        BadRequest,
        CapacityExceeded,
        ConnectFailed,
        Disconnected,
        FieldLeftOut,
        Forbidden,
        GenerationError,
        InputError,
        InvalidModel,
        InvalidOutput,
        LedgerError,
        LedgerInUse,
        LocalModelError,
        MalformedAnswer,
        ManifestChanged,
        MistillError,
        NoRowAnswered,
        NotFound,
        NothingAnswers,
        RateLimited,
        RepeatedAnswer,
        RunStopped,
        ServerError,
        Stopped,
        TransportError,
        Unauthorized,
        UnusableRow,
        UnwritableAnswer,
        WrongFile,
        WrongParameter,
    )
    from mistill.llms import MistralEmbeddings, MistralLLM
    from mistill.runs.export import export_run
    from mistill.runs.report import RunReport
    from mistill.runs.row_report import read_row
    from mistill.runs.run import Run
    from mistill.viewer.running import Viewer, view

__all__ = [
    "APIError",
    "AnswerWithoutFields",
    "AttemptTimeout",
    "BadRequest",
    "CapacityExceeded",
    "ConnectFailed",
    "Deduped",
    "Disconnected",
    "FieldLeftOut",
    "Forbidden",
    "GenerationError",
    "InputError",
    "InvalidModel",
    "InvalidOutput",
    "LedgerError",
    "LedgerInUse",
    "LocalModelError",
    "MalformedAnswer",
    "ManifestChanged",
    "MistillError",
    "MistralEmbeddings",
    "MistralLLM",
    "NearDuplicate",
    "NoRowAnswered",
    "NotFound",
    "NothingAnswers",
    "RateLimited",
    "RepeatedAnswer",
    "Run",
    "RunReport",
    "RunStopped",
    "ServerError",
    "Stopped",
    "TransportError",
    "Unauthorized",
    "UnusableRow",
    "UnwritableAnswer",
    "Viewer",
    "WrongFile",
    "WrongParameter",
    "__version__",
    "dedupe",
    "export_run",
    "read_row",
    "view",
]

_HOMES = {
    "Deduped": "mistill.curation.near_duplicates",
    "NearDuplicate": "mistill.curation.near_duplicates",
    "dedupe": "mistill.curation.near_duplicates",
    "Viewer": "mistill.viewer.running",
    "view": "mistill.viewer.running",
    "MistralEmbeddings": "mistill.llms",
    "MistralLLM": "mistill.llms",
    "Run": "mistill.runs.run",
    "RunReport": "mistill.runs.report",
    "export_run": "mistill.runs.export",
    "read_row": "mistill.runs.row_report",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    # On first use, so that `import mistill` costs next to nothing.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES.get(name, "mistill.errors")), name)
