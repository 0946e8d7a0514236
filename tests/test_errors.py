"""The error tree: every error says what happened, survives pickling, and leaks nothing."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest

import mistill
from mistill import errors
from mistill.errors import (
    APIError,
    InputError,
    InvalidOutput,
    MalformedAnswer,
    ManifestChanged,
    MistillError,
    TransportError,
)

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MistillError)]


def make(kind: type[MistillError]) -> MistillError:
    more: dict[str, Any] = {}
    if issubclass(kind, APIError):
        more = {"status": 418, "code": "7", "correlation_id": "c", "retry_after_s": 2.0}
    elif issubclass(kind, InvalidOutput):
        more = {"text": "raw", "path": "$.a"}
    elif issubclass(kind, ManifestChanged):
        more = {"changes": {"model": ("a", "b")}}
    return kind("what happened", hint="what to do", **more)


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_tells_what_to_do(kind: type[MistillError]) -> None:
    text = str(make(kind))
    assert text.startswith("what happened")
    assert text.endswith("(what to do)")


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_survives_pickle_and_copy(kind: type[MistillError]) -> None:
    error = make(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


def test_kinds_are_stable_names_of_their_own() -> None:
    leaves = [kind for kind in KINDS if not kind.__subclasses__()]
    names = [kind.kind for kind in leaves]
    assert len(set(names)) == len(names)
    assert all(name.isidentifier() and name.islower() for name in names)


def test_the_tree_of_the_docstring_is_the_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if "──" in line]
    assert [line.split("── ")[1].split()[0] for line in drawn] == [
        kind.__name__ for kind in walk(MistillError)
    ]


def test_every_error_is_in_the_tree_and_exported() -> None:
    known = {kind.__name__ for kind in walk(MistillError)} | {"MistillError", "GenerationError"}
    assert known <= set(mistill.__all__)
    assert all(getattr(mistill, name) is getattr(errors, name) for name in known)


def walk(kind: type[MistillError]) -> list[type[MistillError]]:
    below = [kind for kind in kind.__subclasses__() if kind.__module__ == errors.__name__]
    return [one for child in below for one in (child, *walk(child))]


def test_an_input_error_is_a_value_error() -> None:
    assert isinstance(InputError("x", index=3), ValueError)


def test_a_long_body_is_cut() -> None:
    assert len(str(APIError("x" * 10_000, status=500))) < 600


@pytest.mark.parametrize("kind", [TransportError, MalformedAnswer])
def test_what_may_be_billed_says_so(kind: Any) -> None:
    assert make(kind).maybe_billed  # type: ignore[attr-defined]
