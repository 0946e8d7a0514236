"""Topics to instructions, answers, grades and a file for fine-tuning. 25 lines.

    MISTRAL_API_KEY=… python examples/make_training_file.py topics.jsonl train.jsonl

Topics are rows with the column ``topic``. Each step is a run whose output is the input of the next: docs/chains.md says
what each word does, and has the same as five commands. To try it without a key: ``mistill simulate --port 8700`` in
another terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys

from pydantic import BaseModel, Field

from mistill import MistralLLM, Run, export_run

ASK = "Instructions that an expert on {{ topic }} is given"
JUDGE = "Grade from 1 to 5. {{ instruction }} {{ answer }}"
TURNS = {"user": "instruction", "assistant": "answer"}


class Instructions(BaseModel):
    instructions: list[str] = Field(min_length=3, max_length=5)


class Grade(BaseModel):
    score: int = Field(ge=1, le=5)


def make_training_file(topics: str, out: str, endpoint: str = "https://api.mistral.ai") -> int:
    plain, listing, grading = (
        MistralLLM(model="mistral-small-latest", endpoint=endpoint, structured_output=schema)
        for schema in (None, {"schema": Instructions}, {"schema": Grade})
    )
    listed, answered, graded = (f"{out}.{step}.jsonl" for step in ("instructions", "answers", "grades"))
    print(Run(topics, out=listed, llm=listing, prompt=ASK, flatten=True).start())
    answer = {"explode": "instructions=instruction", "columns": {"generation": "answer"}, "earlier": "drop"}
    print(Run(listed, out=answered, llm=plain, prompt="{{ instruction }}", **answer).start())
    grade = {"where": "finish_reason=stop", "flatten": True, "earlier": "drop"}
    print(Run(answered, out=graded, llm=grading, prompt=JUDGE, **grade).start())
    return export_run(graded, out, as_="chat", turns=TURNS, where="score>=3", overwrite=True).records


if __name__ == "__main__":
    print(make_training_file(*sys.argv[1:]), "conversations")
