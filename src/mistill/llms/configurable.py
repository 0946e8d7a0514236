"""Settings that can be changed, asked about and saved; what is secret is in no dump."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from mistill.errors import InputError
from mistill.llms.runtime_parameters import RuntimeParametersMixin


class Configurable(RuntimeParametersMixin, ABC):
    """A model as its attributes describe it. They are checked whenever they are set; an unknown one is an error."""

    model_config = ConfigDict(
        extra="forbid",
        validate_assignment=True,
        validate_default=True,
        protected_namespaces=(),
        hide_input_in_errors=True,  # it may be the key: under a misspelt name, of a wrong type, in a URL
    )

    _secrets: ClassVar[frozenset[str]] = frozenset()
    """Attributes that no dump ever holds."""

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The name of the model that answers."""

    @abstractmethod
    def load(self) -> None:
        """Makes ready to answer. The first use does it too."""

    @abstractmethod
    def unload(self) -> None:
        """Lets go of connections. The next use loads again."""

    def __eq__(self, other: object) -> bool:
        """Equal settings are equal, whatever connections they have open."""
        return type(self) is type(other) and vars(self) == vars(other)

    __hash__ = None  # pyright: ignore[reportAssignmentType]  they can be changed

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    # --- saving -----------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Class and attributes as plain JSON values, secrets left out. `from_dict` makes an equal object of it."""
        attributes = {
            name: self.dump_attribute(name, getattr(self, name))
            for name in type(self).model_fields
            if name not in self._secrets
        }
        return {"type": f"{type(self).__module__}:{type(self).__qualname__}"} | attributes

    @classmethod
    def from_dict(cls, dumped: Mapping[str, Any]) -> Self:
        """The object that ``dump`` wrote down, secrets taken from where a new object takes them.

        Imports the module that ``type`` names; load a dump only from where you would take code.

        Raises:
            InputError: ``type`` names no class of this kind.
            pydantic.ValidationError: an attribute is unknown or has a value that does not fit.
        """
        attributes = dict(dumped)
        wanted = _class_named(str(attributes.pop("type", f"{cls.__module__}:{cls.__qualname__}")), cls)
        return wanted(**{name: wanted.restore_attribute(name, value) for name, value in attributes.items()})

    def save(self, path: str | Path) -> None:
        """Writes `dump` to ``path``: YAML for ``.yaml`` and ``.yml``, else JSON."""
        path = Path(path)
        text = (
            _yaml().safe_dump(self.dump(), sort_keys=False, allow_unicode=True)
            if _is_yaml(path)
            else json.dumps(self.dump(), indent=2, ensure_ascii=False)
        )
        path.write_text(text, encoding="utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The object that `save` wrote to ``path``."""
        text = Path(path).read_text(encoding="utf-8")
        return cls.from_dict(_yaml().safe_load(text) if _is_yaml(Path(path)) else json.loads(text))

    def dump_attribute(self, name: str, value: Any) -> Any:  # noqa: ARG002  subclasses know their names
        """One attribute as a JSON value; a subclass overrides it for what is none."""
        return value

    @classmethod
    def restore_attribute(cls, name: str, value: Any) -> Any:  # noqa: ARG003  subclasses know their names
        """The attribute that `dump_attribute` wrote down."""
        return value


def _class_named(name: str, kind: type[Any]) -> Any:
    module, _, qualname = name.partition(":")
    hint = f"module:ClassName of a {kind.__name__}"
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the dump's type {name!r} names no class: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"the dump's type {name!r} is no {kind.__name__}", hint=hint)
    return found


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _yaml() -> Any:
    import yaml

    return yaml
