"""A Hugging Face dataset with labels as a column more; a sample first, which tells what the rest costs. 18 lines.

    MISTRAL_API_KEY=… python examples/label_dataset.py rotten_tomatoes labels.ledger

The dataset is one of the Hub, or a folder of files, with a column ``text``. In a notebook each line is a cell, and what
it gives shows itself, without ``print``. The ledger keeps the answers: a second start pays for none again. It needs
``pip install 'mistill[arrow]' datasets``. To try it without a key: ``mistill simulate --port 8700`` in another
terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys
from typing import Literal

from datasets import Dataset, load_dataset
from mistill import MistralLLM, Run

PROMPT = "What does the author of this review think?\n\n{{ text }}"
SCHEMA = {"schema": Literal["positive", "negative", "mixed"]}


def label(reviews: Dataset, ledger: str, endpoint: str = "https://api.mistral.ai") -> Dataset:
    llm = MistralLLM(model="mistral-small-latest", endpoint=endpoint, structured_output=SCHEMA)
    settings = {"llm": llm, "prompt": PROMPT, "ledger": ledger, "columns": {"generation": "sentiment"}}
    print(Run(reviews, sample=10, **settings).start())  # its forecast says what the rest costs
    run = Run(reviews, **settings)  # the ten are not asked again
    print(run.start())
    return run.to_dataset()


if __name__ == "__main__":
    name, *others = sys.argv[1:]
    labelled = label(load_dataset(name, split="train"), *others)
    print(labelled)
