"""Attributes that may be set when a pipeline starts, or between two calls, and can be asked about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel

from mistill.errors import InputError, did_you_mean

T = TypeVar("T")


class _Mark:
    def __repr__(self) -> str:
        return "RuntimeParameter"


_MARK = _Mark()

RuntimeParameter = Annotated[T, _MARK]
"""``max_retries: RuntimeParameter[int] = 5`` marks an attribute that `set_runtime_parameters` may change."""

_NOT_GENERATION = ("input", "inputs", "num_generations")


class RuntimeParametersMixin(BaseModel):
    """Runtime parameters are the marked attributes, and ``generation_kwargs`` with the arguments of a call."""

    @property
    def runtime_parameters_names(self) -> dict[str, Any]:
        """Name → whether it is optional; under ``generation_kwargs`` the same for a call's own arguments."""
        names: dict[str, Any] = {
            name: not field.is_required()
            for name, field in type(self).model_fields.items()
            if _MARK in field.metadata
        }
        if "generation_kwargs" in names:
            names["generation_kwargs"] = {
                name: is_optional for name, (is_optional, _) in self._generation_arguments().items()
            }
        return names

    def get_runtime_parameters_info(self) -> list[dict[str, Any]]:
        """One dict a parameter: ``name``, ``optional``, ``description``; ``generation_kwargs`` has ``keys`` of such."""
        info: list[dict[str, Any]] = []
        for name, optional in self.runtime_parameters_names.items():
            entry: dict[str, Any] = {"name": name}
            if description := type(self).model_fields[name].description:
                entry["description"] = description
            if isinstance(optional, dict):
                entry["keys"] = [
                    {"name": key, "optional": is_optional, "description": text}
                    for key, (is_optional, text) in self._generation_arguments().items()
                ]
            else:
                entry["optional"] = optional
            info.append(entry)
        return info

    def set_runtime_parameters(self, runtime_parameters: Mapping[str, Any]) -> None:
        """Sets the given parameters; all are checked before the first is set. They count from the next call on.

        Raises:
            InputError: an unknown name; the error offers the nearest.
            pydantic.ValidationError: a value that does not fit; nothing is set then.
        """
        names = self.runtime_parameters_names
        for name in runtime_parameters:
            if name not in names:
                raise InputError(
                    f"{type(self).__name__} has no runtime parameter {name!r}", hint=did_you_mean(name, names)
                )
        before = {name: getattr(self, name) for name in runtime_parameters}
        try:
            for name, value in runtime_parameters.items():
                setattr(self, name, value)
        except ValueError:
            for name, value in before.items():
                setattr(self, name, value)
            raise

    def _generation_arguments(self) -> dict[str, tuple[bool, str | None]]:
        """Name → (optional, description) of the arguments of one generation; classes that generate say which."""
        return {}
