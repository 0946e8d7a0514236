"""Whatever a server sends, an exchange ends in an answer or in one of our errors, never in anything else."""

from __future__ import annotations

import pytest
from tests.api.exchange_fuzz import outcomes


@pytest.mark.parametrize("hundred", range(4))
async def test_every_exchange_ends_in_an_answer_or_in_our_errors(hundred: int) -> None:
    counts = await outcomes(range(100 * hundred, 100 * (hundred + 1)))
    assert counts["answered"] > 5
    assert {"malformed_answer", "disconnected", "bad_request", "server_error"} <= counts.keys()
