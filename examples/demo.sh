#!/usr/bin/env bash
# What `make demo` runs: the main job on a real model, with no key. It needs `mistill` on PATH, with the extra `local`.
set -euo pipefail
cd "$(dirname "$0")/.."

out=demo
mkdir -p "$out"

cat <<'TEXT'
Twelve short reviews, answered by a real model on this machine.
It is a demo model of 135 million parameters: what it writes shows that the machinery works, not what a Mistral
model can do. The first run fetches 98 MB of weights.

TEXT

echo "1. Plain text: one sentence about each review"
mistill run examples/prompts.jsonl --local --fresh --out "$out/answers.jsonl" \
    --system "You answer in one short sentence." \
    --prompt "What does this customer think of the {{ product }}? {{ review }}" \
    --max-new-tokens 160 --temperature 0.2
head -n 3 "$out/answers.jsonl"

echo
echo "2. Structured: every answer fits examples/review.schema.json, its fields as columns"
mistill run examples/prompts.jsonl --local --fresh --out "$out/structured.jsonl" \
    --prompt "Rate this review of a {{ product }}: {{ review }}" \
    --schema examples/review.schema.json --flatten \
    --max-new-tokens 160 --temperature 0.2
head -n 3 "$out/structured.jsonl"

cat <<TEXT

All twelve rows of each are in $out/answers.jsonl and $out/structured.jsonl.
With a key the same commands run on a Mistral model: export MISTRAL_API_KEY=…, and write
--model mistral-small-latest in place of --local.
TEXT
