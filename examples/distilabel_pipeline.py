"""A distilabel pipeline on Mistral models: two answer, one judges, and every row says what it cost or why it failed.

    pip install 'mistill[distilabel]'
    MISTRAL_API_KEY=… python examples/distilabel_pipeline.py

To try it without a key: ``mistill simulate --port 8700`` in another terminal, then give ``http://127.0.0.1:8700`` as
the argument, and any key.
"""

from __future__ import annotations

import sys

from distilabel.pipeline import Pipeline
from distilabel.steps import GroupColumns, LoadDataFromDicts
from distilabel.steps.tasks import TextGeneration, UltraFeedback

from mistill.integrations.distilabel import MistralLLM  # was: from distilabel.models import MistralLLM

INSTRUCTIONS = [
    "Why is the sky blue? Answer in one sentence.",
    "Name three uses of a paper clip.",
    "What does a governor do in a steam engine?",
]


def build(endpoint: str) -> Pipeline:
    with Pipeline(name="answers-and-judgements") as pipeline:
        load = LoadDataFromDicts(data=[{"instruction": text} for text in INSTRUCTIONS])
        answers = [
            TextGeneration(
                name=f"answer-{number}",
                llm=MistralLLM(model=model, endpoint=endpoint, generation_kwargs={"max_new_tokens": 200}),
            )
            for number, model in enumerate(["mistral-small-latest", "ministral-8b-latest"])
        ]
        together = GroupColumns(
            columns=["generation", "model_name"], output_columns=["generations", "generation_models"]
        )
        judge = UltraFeedback(
            name="judge",
            aspect="overall-rating",
            use_default_structured_output=True,  # ratings as JSON that fits, not as text that has to be read
            llm=MistralLLM(model="mistral-large-latest", endpoint=endpoint),
        )
        load >> answers >> together >> judge
    return pipeline


if __name__ == "__main__":
    endpoint = sys.argv[1] if len(sys.argv) > 1 else "https://api.mistral.ai"
    for row in build(endpoint).run(use_cache=False)["default"]["train"]:
        statistics = row["distilabel_metadata"]["statistics_judge"]
        print(
            f"{row['instruction']}\n"
            f"  ratings: {row['ratings']}  tokens of the judge: {statistics['output_tokens']}"
        )
        if statistics["error"]:
            print(f"  failed: {statistics['error']}")
