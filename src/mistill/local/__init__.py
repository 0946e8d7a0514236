"""The local model: SmolLM2-135M-Instruct on this machine, for demonstrations and tests without a key.

It is the demo model, a toy in quality. ``LocalModel`` starts it as a child process that answers on 127.0.0.1 in
OpenAI's dialect; ``serve`` runs it in the foreground. Nothing here is imported by ``import mistill``.
"""

from __future__ import annotations

from mistill.errors import LocalModelError
from mistill.local.model import MODEL, LocalModel, serve

__all__ = ["MODEL", "LocalModel", "LocalModelError", "serve"]
