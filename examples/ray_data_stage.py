"""Mails in a Ray dataset → a column with what each wants, asked of a Mistral model by two actors. 22 lines.

    MISTRAL_API_KEY=… python examples/ray_data_stage.py mails.parquet answers

Mails are rows with a column ``text``; ``answers/`` gets Parquet files with ``generation``, ``error``, tokens and cost
beside it. All that use the key on this machine share its quota; for several machines see docs/governor.md. Ray
pays a block again whose actor dies, so blocks are small; ``mistill run`` pays nothing again (docs/engines.md).
It needs ``pip install mistill 'ray[data]'``. To try it without a key: ``mistill simulate --port 8700`` in another
terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys

import ray.data

from mistill import MistralLLM
from mistill.integrations.engines import Stage


def ask_all(mails: str, out: str, endpoint: str = "https://api.mistral.ai") -> None:
    llm = MistralLLM(model="mistral-small-latest", endpoint=endpoint)
    # Small files are read as one block, which is one actor's work, and is paid again as a whole.
    rows = ray.data.read_parquet(mails).repartition(target_num_rows_per_block=100)
    answered = rows.map_batches(
        Stage,
        fn_constructor_args=(llm,),
        fn_constructor_kwargs={"prompt": "What does this mail want, in three words?\n{{ text }}"},
        batch_format="pyarrow",
        batch_size=None,
        num_cpus=0.1,  # an actor waits for the server: whole CPUs would leave none to read and to write
        # Four blocks at once: with one, an actor would wait for the slowest row of each.
        compute=ray.data.ActorPoolStrategy(
            size=2, max_concurrent_calls_per_actor=4, enable_true_multi_threading=True
        ),
    )
    answered.write_parquet(out)


if __name__ == "__main__":
    ask_all(*sys.argv[1:])
