"""Settings that can be changed, asked about and saved; what is secret is in no dump."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from inspect import isabstract
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from mistill.errors import InputError
from mistill.foreign_text import read_json, read_yaml
from mistill.llms.runtime_parameters import RuntimeParametersMixin
from mistill.wording import Setting, words


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
        return {"type": _name_of(type(self))} | attributes

    @classmethod
    def from_dict(
        cls, dumped: Mapping[str, Any], *, trust: bool = False, source: str = "the dump", **own: Any
    ) -> Self:
        """The object that ``dump`` wrote down, secrets taken from where a new object takes them.

        Args:
            dumped: is data, and may be somebody else's: of the classes that it names only those of ``mistill.llms``
                are taken, and the one that this is called on. Nor does it say where the key goes: an endpoint in it is
                taken if that is Mistral's own or this machine, and ``allow_http`` is not.
            trust: it is your own: its endpoint and ``allow_http`` hold, and modules that it names are imported, which
                runs their code. Without it a schema that was a class comes back as its JSON schema.
            source: what the dump is called in errors.
            own: attributes that you name yourself, in the place of the dump's.

        Raises:
            InputError: ``type`` names no class of this kind, or ``type`` or ``endpoint`` one that needs ``trust``.
            pydantic.ValidationError: an attribute is unknown or has a value that does not fit.
        """
        if not isinstance(dumped, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  a file may hold anything
            raise InputError(f"{source} is no dump of a {cls.__name__}: it is no object")
        attributes = {str(name): value for name, value in dumped.items() if name not in own}
        wanted = _class_named(str(attributes.pop("type", _name_of(cls))), cls, trust=trust)
        if not trust:
            attributes = wanted.check_foreign(attributes, source)
        restored = {
            name: wanted.restore_attribute(name, value, trust=trust) for name, value in attributes.items()
        }
        return wanted(**restored, **own)

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
    def from_file(cls, path: str | Path, *, trust: bool = False, **own: Any) -> Self:
        """The object that `save` wrote to ``path``, see `from_dict`."""
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is not UTF-8") from error
        read = read_yaml if _is_yaml(Path(path)) else read_json
        dumped = read(text, str(path))
        return cls.from_dict(dumped, trust=trust, source=str(path), **own)

    def dump_attribute(self, name: str, value: Any) -> Any:  # noqa: ARG002  subclasses know their names
        """One attribute as a JSON value; a subclass overrides it for what is none."""
        return value

    @classmethod
    def check_foreign(cls, attributes: Mapping[str, Any], source: str) -> dict[str, Any]:  # noqa: ARG003  subclasses know
        """Those of a dump's attributes that may be taken though it is somebody else's.

        Raises:
            InputError: one of them may only be taken from a dump that is trusted.
        """
        return dict(attributes)

    @classmethod
    def restore_attribute(cls, name: str, value: Any, *, trust: bool = False) -> Any:  # noqa: ARG003  subclasses know
        """The attribute that `dump_attribute` wrote down; ``trust`` as `from_dict` has it."""
        return value


_OURS = __name__.rpartition(".")[0]


def _name_of(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _class_named(name: str, kind: type[Any], *, trust: bool) -> Any:
    if name == _name_of(kind) and not isabstract(kind):
        return kind
    module, _, qualname = name.partition(":")
    hint = f"module:ClassName of a {kind.__name__}"
    if not trust and module != _OURS and not module.startswith(f"{_OURS}."):
        raise InputError(
            f"the dump's type {name!r} is none of mistill's own, and to import it runs its code",
            hint=words("if the dump is yours, give ", Setting("trust", True)),
        )
    try:
        found: Any = importlib.import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the dump's type {name!r} names no class: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, kind)) or isabstract(found):
        raise InputError(f"the dump's type {name!r} is no {kind.__name__}", hint=hint)
    return found


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _yaml() -> Any:
    import yaml

    return yaml
