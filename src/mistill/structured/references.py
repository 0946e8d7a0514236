"""A schema by name: on the command line (``module:Name``, a ``.json`` file), and in a saved configuration.

A name of a module is imported here, which runs its code: whoever calls this has asked whether the user named it, or
trusts what does.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, cast

from mistill.errors import InputError, nearest_name
from mistill.foreign_text import read_json
from mistill.same_place import check_is_here
from mistill.structured.schema import compile_schema
from mistill.structured.structured_output import compile_structured_output


def load_schema(reference: str) -> Any:
    """What ``reference`` names, to be given to ``compile_schema``.

    Args:
        reference: the path of a ``.json`` file with a JSON schema; a JSON schema itself (begins with ``{``); or
            ``module:Name``, where ``Name`` may be dotted.

    Raises:
        InputError: there is no such file, module or name, or the file is not JSON.
    """
    if reference.lstrip().startswith("{"):
        return read_json(reference, "the schema")
    check_is_here(reference, "the schema")
    if reference.endswith(".json"):
        try:
            text = Path(reference).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the schema file {reference} cannot be read: {error}") from error
        return read_json(text, reference)
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise InputError(
            f"{reference!r} names no schema", hint="use a .json file with a JSON schema, or module:Name"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(
            f"the schema {reference}: {error}", hint="the module must be installed or on PYTHONPATH"
        ) from error
    except (Exception, SystemExit) as error:  # it is the user's own code
        raise InputError(
            f"the schema {reference}: its module raises {type(error).__name__}: {error}",
            hint=f"try: python -c 'import {module_name}'",
        ) from error
    return _attribute(module, name, reference)


def names_module(reference: str) -> bool:
    """Whether `load_schema` would import something."""
    return not reference.lstrip().startswith("{") and not reference.endswith(".json")


def describe_schema(schema: Any) -> dict[str, Any]:
    """``schema`` as JSON for a saved configuration; :func:`restore_schema` reads it.

    ``{"module", "name", "json_schema"}`` for a class that can be imported under its name, else ``{"json_schema"}``.
    """
    compiled = compile_schema(schema)
    description: dict[str, Any] = {"json_schema": compiled.json_schema}
    source = compiled.source
    if isinstance(source, type) and _importable(source):
        return {"module": source.__module__, "name": source.__qualname__, **description}
    return description


def describe_structured_output(setting: Mapping[str, Any]) -> dict[str, Any]:
    """A ``StructuredOutput`` as JSON for a saved configuration: its schema as :func:`describe_schema` says, its mode by
    name."""
    described = {**setting, "schema": describe_schema(setting["schema"])}
    if isinstance(setting.get("mode"), Enum):
        described["mode"] = compile_structured_output(setting).mode
    return described


def restore_schema(description: dict[str, Any]) -> Any:
    """The class that ``description`` names if it can still be imported and is a schema, else its JSON schema.

    Imports the named module; nothing in it is called. What the name stands for is taken only if it is a class that
    compiles as a schema.

    Raises:
        InputError: ``description`` is not what :func:`describe_schema` writes.
    """
    if description.get("type") == "json_schema":
        return description  # a schema as the field of a request, which has a key "json_schema" too
    json_schema = description.get("json_schema")
    if not isinstance(json_schema, dict) or set(description) - {"module", "name", "json_schema"}:
        raise InputError(
            f"not a saved schema: {sorted(description)}",
            hint='it has the keys "module", "name" and "json_schema"',
        )
    module_name, name = description.get("module"), description.get("name")
    if isinstance(module_name, str) and isinstance(name, str):
        try:
            found = _attribute(importlib.import_module(module_name), name, f"{module_name}:{name}")
            if isinstance(found, type):
                compile_schema(found)
                return found
        except (Exception, SystemExit):  # whatever a module raises as it is imported: its JSON schema serves
            return cast("dict[str, Any]", json_schema)
    return cast("dict[str, Any]", json_schema)


def _importable(class_: type) -> bool:
    if class_.__module__ == "__main__":
        return False
    found: Any = sys.modules.get(class_.__module__)
    for part in class_.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is class_


def _attribute(module: Any, name: str, reference: str) -> Any:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            near = nearest_name(part, (known for known in dir(found) if not known.startswith("_")))
            raise InputError(
                f"the schema {reference}: there is no {part!r} in {getattr(found, '__name__', found)}",
                hint=f"did you mean {near!r}?" if near else None,
            )
        found = getattr(found, part)
    return found
