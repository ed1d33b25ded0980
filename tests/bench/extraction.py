"""Extract-and-commit against the bare forward of the same batches, in one run.

python tests/bench/extraction.py [--samples 512] [--recipe digits-fusion] [--device cpu]
"""

import argparse
import tempfile
import time
from pathlib import Path

import polars as pl
import torch

from actstore.table import render
from actstore_extract import recipe
from actstore_extract.families import Prompt
from actstore_extract.runner import Run

REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--recipe", default="digits-fusion")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    run = Run(recipe.load(options.recipe, [f"samples.limit={options.samples}"]), device=options.device)
    size = run.recipe.capture.batch_size
    prompts = [
        Prompt(name, text, run.samples.image(image))
        for name, text, image in run.planned.select("sample_id", "prompt", "image").iter_rows()
    ]

    def encode() -> list[object]:
        return [run.model.encode(prompt) for prompt in prompts]

    def forward(encoded: list[object]) -> None:
        for batch in run.model.batches(encoded, size):
            run.model(run.model.collate([encoded[i] for i in batch]))
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    found = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        forward(encode()[: 2 * size])
        for i in range(REPEATS):
            start = time.perf_counter()
            encoded = encode()
            middle = time.perf_counter()
            forward(encoded)
            end = time.perf_counter()
            done = run.extract(Path(folder) / str(i))
            found.append((middle - start, end - middle, done.seconds))
    encoding, bare, whole = (min(column) for column in zip(*found, strict=True))
    table = {
        "what": ["encode the samples", "bare forward, whole head", "extract and commit (with encoding)"],
        "seconds": [encoding, bare, whole],
        "samples_per_s": [len(prompts) / t for t in (encoding, bare, whole)],
    }
    render(pl.DataFrame(table), "table")
    print(f"(encode + forward) / extract = {(encoding + bare) / whole:.2f}; batch {size}, device {run.device_name}")


if __name__ == "__main__":
    main()
