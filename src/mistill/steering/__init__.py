"""A start that goes on is told what to do: paused, gone on with, stopped, its settings changed, by its user alone.

Whoever steers one sends it an `Order` (``orders``) over a Unix socket in the user's own runtime folder (``address``):
the start has an `OrderServer` there (``server``), other processes a `Control` (``client``). What obeys is a `Steered`:
a start of a run, or whoever has several of them and passes an order on.
"""
