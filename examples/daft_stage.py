"""Mails in a Daft frame → a column with what each wants, asked of a Mistral model. 16 lines.

    MISTRAL_API_KEY=… python examples/daft_stage.py mails.parquet answers

Mails are rows with a column ``text``; ``answers/`` gets Parquet files with ``generation``, ``error``, tokens and cost
beside it. All that use the key on this machine share its quota. Daft keeps nothing of what was paid when its process
dies; ``mistill run`` keeps all of it (docs/engines.md).
It needs ``pip install mistill daft``. To try it without a key: ``mistill simulate --port 8700`` in another
terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys

import daft
import pyarrow as pa

from mistill import MistralLLM
from mistill.integrations.engines import Stage


def ask_all(mails: str, out: str, endpoint: str = "https://api.mistral.ai") -> None:
    llm = MistralLLM(model="mistral-small-latest", endpoint=endpoint)
    stage = Stage(llm, prompt="What does this mail want, in three words?\n{{ text }}")

    @daft.func.batch(return_dtype=daft.DataType.from_arrow_type(stage.type), unnest=True, batch_size=500)
    def ask(text: daft.Series) -> pa.StructArray:
        return stage.answers(pa.table({"text": text.to_arrow()})).to_struct_array().combine_chunks()

    frame = daft.read_parquet(mails)
    frame.select("*", ask(frame["text"])).write_parquet(out)


if __name__ == "__main__":
    ask_all(*sys.argv[1:])
