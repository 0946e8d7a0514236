"""``python -m mistill``: the same as the command ``mistill``."""

from __future__ import annotations

import sys

from mistill.cli import main

sys.exit(main())
