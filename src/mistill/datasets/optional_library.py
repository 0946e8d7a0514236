"""Libraries that only some things need, such as a format: loaded when they are, and asked for by the name of their
extra."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any, NamedTuple

from mistill.errors import InputError
from mistill.extras import install_command


class OptionalLibrary(NamedTuple):
    """A library that mistill does without until something needs it.

    Attributes:
        name: what is imported.
        extra: what to install, as in ``mistill[arrow]``.
    """

    name: str
    extra: str

    @property
    def is_there(self) -> bool:
        """Whether it is installed."""
        if self.name in sys.modules:
            return sys.modules[self.name] is not None  # pyright: ignore[reportUnnecessaryComparison]  as import takes it
        return importlib.util.find_spec(self.name) is not None

    def load(self, purpose: str, module: str | None = None) -> Any:
        """The library, or a ``module`` of it.

        Args:
            purpose: what it is wanted for, for the error: "writing answers.parquet".

        Raises:
            InputError: it is not installed.
        """
        try:
            return importlib.import_module(module or self.name)
        except ImportError as error:
            raise InputError(f"{purpose} needs {self.name}", hint=install_command(self.extra)) from error


PYARROW = OptionalLibrary("pyarrow", extra="arrow")
OPENPYXL = OptionalLibrary("openpyxl", extra="excel")
