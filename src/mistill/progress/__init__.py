"""How far work is, shown while it goes on: on a terminal, in a notebook, or line by line."""
