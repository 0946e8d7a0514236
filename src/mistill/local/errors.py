"""What can go wrong with the local model itself; what its server answers are ordinary API errors."""

from __future__ import annotations

from mistill.api.errors import MistillError


class LocalModelError(MistillError):
    """The local model cannot run: its extra, its weights or its process is missing or broken."""

    kind = "local_model"
