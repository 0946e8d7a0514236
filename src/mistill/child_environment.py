"""What the processes that we start are told of this one's environment: nothing that may be a secret.

A key may be in any variable, so it is named what goes on, not what stays behind.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_EXACT = frozenset(
    """PATH HOME USER LOGNAME SHELL TZ TMPDIR TEMP TMP LANG LANGUAGE VIRTUAL_ENV SYSTEMROOT SYSTEMDRIVE WINDIR COMSPEC
    PATHEXT APPDATA LOCALAPPDATA PROGRAMDATA USERPROFILE""".split()  # noqa: SIM905  a list of so many is a column
)
_PREFIXES = ("LC_", "XDG_", "PYTHON", "COVERAGE_", "LD_", "DYLD_")
MODEL_LIBRARIES = (
    "OMP_",
    "GGML_",
    "LLAMA_",
    "CUDA_",
    "NVIDIA_",
    "HIP_",
    "ROCR_",
    "VK_",
    "OPENBLAS_",
    "MKL_",
    "KMP_",
)
"""Further prefixes: what llama.cpp and the libraries under it are tuned by."""
DOWNLOAD = (
    *("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NETRC"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
)
"""Further prefixes: how pip finds its index, and the way to it."""


def child_environment(prefixes: Sequence[str] = ()) -> dict[str, str]:
    """The environment of a child: what every program needs, and the variables that begin with one of ``prefixes``."""
    wanted = (*_PREFIXES, *prefixes)
    return {
        name: value
        for name, value in os.environ.items()
        if name.upper() in _EXACT or name.upper().startswith(wanted)
    }
