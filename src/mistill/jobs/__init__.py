"""Batch jobs: what Mistral answers in its own time, at half the price, carried through whatever may happen meanwhile.

Knows neither rows nor what is asked of them: lines go out, and answers come into the ledger.
"""
