"""Unfinished work: two stores that are half extracted and an adapter that is half trained.

`python tests/golden/unfinished.py FOLDER` made golden/unfinished-1.tar.xz with the code of 0.1.0, once; every later
version goes on with those bytes.
"""

import sys
from pathlib import Path
from unittest import mock

from actstore_extract.recipe import recipe
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from actstore_extract.training import recipe as trainings
from actstore_extract.training.loop import _Loop
from actstore_extract.training.program import train_adapter
from actstore_extract.training.recipe import AdapterRecipe

FUSION = """
about = "everything that a store can keep, under a knockout and without"
seed = 7
conditions = ["none", "eoi-knockout"]
[model]
path = "digits-fusion"
dtype = "float32"
[samples]
source = "digits"
limit = 6
[prompt]
text = "<image>this digit is a"
[capture]
roles = ["eoi", "last-image", "image-mean", "suffix", "random-text", "last"]
kv = ["suffix"]
attention = ["eoi"]
mass = true
lens = true
answers = ["zero", "one"]
batch_size = 2
part_samples = 4
"""
MAPPED = """
about = "both orders, in bfloat16"
seed = 7
[model]
path = "digits-mapped"
dtype = "bfloat16"
[samples]
source = "digits"
split = "test"
limit = 4
[prompt.text]
image-text = "<image>: this digit is a"
text = "{label} : this digit is a"
[capture]
roles = ["first-image", "last-image", "last"]
layers = [0, 4, -1]
max_new_tokens = 2
batch_size = 2
part_samples = 2
"""
ADAPTER = (
    "data.digits.limit=16",
    "training.batch_size=4",
    "training.micro_batch=4",
    "training.epochs=2",
    "training.checkpoint_every=2",
)


def half_extracted(path, text):
    file = path.with_suffix(".toml")
    file.write_text(text)
    run, content, calls = Run(recipe.load(str(file))), Extractor.content, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # a probe, a part
            raise KeyboardInterrupt
        return content(self, *arguments, **options)

    with mock.patch.object(Extractor, "content", interrupted):
        try:
            run.extract(path)
        except KeyboardInterrupt:
            return
    raise AssertionError("it should have stopped")


def half_trained(path):
    step = _Loop._step

    def stopped(self, batch):
        return self.step < 4 and step(self, batch)

    with mock.patch.object(_Loop, "_step", stopped):
        done = train_adapter(trainings.load("digits-adapter", AdapterRecipe, ADAPTER), path, device="cpu")
    assert not done.finished


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    half_extracted(folder / "fusion", FUSION)
    half_extracted(folder / "mapped", MAPPED)
    half_trained(folder / "adapter")
