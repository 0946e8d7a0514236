"""References within a JSON document: one rule for requests, answers and the simulator."""

from __future__ import annotations

from typing import Any

import pytest

from mistill.json_pointers import look_up

DOCUMENT: dict[str, Any] = {
    "$defs": {"Name": 1, "a/b": 2, "c~d": 3, "e f": 4, "": 5, "~1": 6, "0": 7},
    "prefixItems": [{"x": 8}, 9],
}


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("#", DOCUMENT),
        ("#/$defs/Name", 1),
        ("#/%24defs/Name", 1),
        ("#/$defs/a~1b", 2),
        ("#/$defs/c~0d", 3),
        ("#/$defs/e%20f", 4),
        ("#/$defs/", 5),
        ("#/$defs/~01", 6),
        ("#/$defs/0", 7),
        ("#/prefixItems/0/x", 8),
        ("#/prefixItems/1", 9),
    ],
)
def test_a_reference_stands_for_what_is_at_its_place(reference: str, value: Any) -> None:
    assert look_up(reference, DOCUMENT) == value


@pytest.mark.parametrize(
    "reference",
    ["", "#Name", "other.json", "other.json#/$defs/Name", "#/$defs/name", "#/prefixItems/2", "#/prefixItems/-1",
     "#/prefixItems/x", "#/prefixItems/١", "#/$defs/Name/x", "#//$defs/Name"],
)  # fmt: skip
def test_one_that_leads_nowhere_is_told_from_all_values(reference: str) -> None:
    with pytest.raises(LookupError):
        look_up(reference, DOCUMENT)
