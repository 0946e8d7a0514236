"""Messy mails to a table: what each of them wants, as columns of a Parquet file. 27 lines.

    MISTRAL_API_KEY=… python examples/sort_mails.py mails.jsonl tickets.parquet

Mails are rows of JSON Lines, CSV, … with the columns ``from`` and ``body``. Equal ones are paid once, nulls are no
matter, and a second start sends nothing. A CSV file that is not UTF-8 with commas takes its encoding (``cp1252``) and
what is between its fields (``;``) as further arguments.
It needs ``pip install 'mistill[arrow]' pandas``. To try it without a key: ``mistill simulate --port 8700`` in another
terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys
from typing import Literal

from pydantic import BaseModel, Field

from mistill import MistralLLM, Run

SYSTEM = "You sort the mail of a shop."
PROMPT = "From: {{ from or 'nobody' }}\n\n{{ body or 'an empty mail' }}"


class Ticket(BaseModel):
    category: Literal["refund", "delivery", "question", "other"]
    order: str | None = Field(description="the number of the order, as it is written in the mail")
    urgent: bool
    summary: str = Field(max_length=120)


def sort_mails(
    mails: str,
    out: str,
    endpoint: str = "https://api.mistral.ai",
    encoding: str | None = None,
    delimiter: str | None = None,
) -> Run:
    llm = MistralLLM(model="mistral-small-latest", endpoint=endpoint, structured_output={"schema": Ticket})
    reading = {"encoding": encoding, "delimiter": delimiter, "dedupe": True}
    run = Run(mails, llm=llm, out=out, system=SYSTEM, prompt=PROMPT, flatten=True, **reading)
    print(run.start())
    return run


if __name__ == "__main__":
    tickets = sort_mails(*sys.argv[1:]).to_pandas()
    print(tickets.groupby("category")["urgent"].agg(["size", "sum"]))
