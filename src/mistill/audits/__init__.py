"""What runs have cost by their ledgers, held against the bill: where the two differ, and why."""
