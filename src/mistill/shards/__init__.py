"""A run in shards: where its input is cut, and who works on which. What is done with one, `mistill.runs` knows."""
