"""The columns that a run adds to a row: their names, what they hide, the fields of an answer as columns."""
