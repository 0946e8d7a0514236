"""Captions and tags for a folder of images, as columns of a file. 18 lines.

    MISTRAL_API_KEY=… python examples/caption_images.py photos captions.jsonl

The same on the command line: docs/chat-api.md, "Images, documents and sound of rows". To try it without a key:
``mistill simulate --port 8700`` in another terminal, then ``http://127.0.0.1:8700`` as a third argument.
"""

from __future__ import annotations

import sys

from pydantic import BaseModel

from mistill import MistralLLM, Run

PROMPT = "Describe this image in one sentence, and give up to five tags. Its file is called {{ name }}."


class Description(BaseModel):
    caption: str
    tags: list[str]


def caption(folder: str, out: str, endpoint: str = "https://api.mistral.ai") -> Run:
    llm = MistralLLM(
        model="mistral-small-latest", endpoint=endpoint, structured_output={"schema": Description}
    )
    run = Run(folder, llm=llm, out=out, prompt=PROMPT, images="file", flatten=True, drop=["folder"])
    print(run.dry_run())  # what it will ask, and about what that costs
    print(run.start())
    return run


if __name__ == "__main__":
    caption(*sys.argv[1:])
