"""A local page over ledgers: the runs of a folder, their rows, one row, two side by side; and marks, where wanted.

`catalogue` knows which runs there are; `pages`, `one_run`, `one_row` and `side_by_side` read what is shown of them;
`access` says who may ask, `service` answers over HTTP, `running` runs it. ``page/`` is what the browser gets: plain
modules, no build.
"""
