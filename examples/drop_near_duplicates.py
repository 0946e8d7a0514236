"""Texts to vectors to one text of each cluster of near duplicates, and which stands for which. 12 lines.

    MISTRAL_API_KEY=… python examples/drop_near_duplicates.py texts.jsonl unique.parquet

Texts are rows with the column ``text``. Their vectors stay in a file, so that another threshold costs nothing.
It needs ``pip install 'mistill[arrow,dedupe]'``. To try it without a key: ``mistill simulate --port 8700`` in another
terminal, then ``http://127.0.0.1:8700`` as a third argument; the simulator's vectors are alike for equal texts only.
"""

from __future__ import annotations

import sys

from mistill import Deduped, MistralEmbeddings, Run, dedupe


def drop_near_duplicates(texts: str, out: str, endpoint: str = "https://api.mistral.ai") -> Deduped:
    vectors = f"{out}.vectors.parquet"
    print(Run(texts, llm=MistralEmbeddings(endpoint=endpoint), out=vectors, dedupe=True).start())
    return dedupe(vectors, out, threshold=0.95, overwrite=True)


if __name__ == "__main__":
    found = drop_near_duplicates(*sys.argv[1:])
    print(f"{found.kept} of {found.rows} texts are kept")
    for one in found.dropped[:20]:
        print(f"row {one.row} is like row {one.kept} ({one.similarity:.2f})")
