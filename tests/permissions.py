"""Programs that are bound by the modes of files, as those of any user but root are."""

from __future__ import annotations

import os

BOUND_BY_MODES = (
    ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    if hasattr(os, "getuid") and os.getuid() == 0
    else []
)
"""Before a command: root has to give up what lets it read every file."""
