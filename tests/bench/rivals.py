"""Extraction beside what else keeps activations: the same random Llama, the same tokens, the same vectors to disk.

python tests/bench/rivals.py [--quick]

Residual streams of every token: of all layers (output_hidden_states and np.save, nnsight, TransformerLens' bridge) and
of one layer (SAELens' CacheActivationsRunner, which keeps one). Each rival runs as its documentation shows it, and
writes in its own form; rows and bytes on disk are counted. A rival that is not installed is left out; `make bench`
installs nnsight, which is not among the dependencies here.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import finish, parser, row, speed, taking_turns
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import actstore
from actstore_extract.recipe import recipe
from actstore_extract.run.places import place
from actstore_extract.run.runner import Run
from models import MIDDLE, QUICK, tokenizer

LAYER = 3  # the one that is kept where one is
RECIPE = """
[model]
path = "{folder}/model"
dtype = "float32"
[samples]
source = "table"
path = "{folder}/samples.csv"
[capture]
roles = ["all"]
next_token = false
layers = {layers}
dtype = "float32"
batch_size = {batch}
"""


def text_model(folder: Path, quick: bool, n_samples: int, length: int) -> torch.Tensor:
    """A random Llama and samples of one length in a folder; returns their tokens (samples, length)."""
    shape, words = QUICK if quick else MIDDLE, tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=shape.width, intermediate_size=shape.inner, num_hidden_layers=shape.blocks,
        num_attention_heads=shape.heads, num_key_value_heads=shape.heads, max_position_embeddings=2048,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    words.save_pretrained(folder / "model")
    letters = np.random.default_rng(0).integers(len(words) - 26, len(words), (n_samples, length - 1))
    prompts = [words.decode(row) for row in letters]
    lines = [f"s{i:03d},{prompt}" for i, prompt in enumerate(prompts)]
    (folder / "samples.csv").write_text("\n".join(["sample_id,prompt", *lines]))
    return torch.tensor(words(prompts).input_ids)


class Ours:
    """actstore, all layers or one; `rows` and `bytes` are those of the last store."""

    def __init__(self, folder: Path, layers: str, batch: int, repeats: int) -> None:
        file = folder / "ours.toml"
        file.write_text(RECIPE.format(folder=folder, layers=layers, batch=batch))
        self.run = Run(recipe.load(str(file)), device="cpu")
        self.paths = [folder / f"ours-{len(layers)}-{i}" for i in range(repeats)]
        for path in self.paths:
            self.run._open(place(path))

    def __call__(self) -> None:
        self.path = self.paths.pop()
        self.run.extract(self.path)

    def stored(self) -> tuple[int, int]:
        """Vectors, and bytes on disk."""
        store = actstore.open(self.path)
        return sum(commit.rows for commit in store.commits) * len(store.layers), on_disk(self.path)


def on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


class Saved:
    """A rival that yields arrays (layers, samples, length, d), each kept by np.save."""

    def __init__(self, folder: Path, arrays: Callable[[], Any]) -> None:
        self.folder, self.arrays = folder, arrays

    def __call__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        self.rows = 0
        for i, array in enumerate(self.arrays()):
            np.save(self.folder / f"{i}.npy", array)
            self.rows += int(np.prod(array.shape[:-1]))

    def stored(self) -> tuple[int, int]:
        return self.rows, on_disk(self.folder)


@torch.no_grad()
def plain(model: Any, batches: list[torch.Tensor]) -> Any:
    """output_hidden_states: the last of them is after the final norm."""
    for tokens in batches:
        hidden = model(tokens, output_hidden_states=True, use_cache=False).hidden_states
        yield torch.stack(hidden).numpy()


@torch.no_grad()
def traced(model: Any, batches: list[torch.Tensor]) -> Any:
    """nnsight: what goes into the first block, and what comes out of each."""
    import nnsight

    for tokens in batches:
        with model.trace(tokens, use_cache=False):
            kept = nnsight.save([model.model.layers[0].input])
            for layer in model.model.layers:
                kept.append(layer.output)
        yield torch.stack(kept).numpy()


@torch.no_grad()
def bridge(model: Any, batches: list[torch.Tensor]) -> Any:
    """run_with_cache of the residual streams; its attention is always eager."""
    n = model.cfg.n_layers
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(n))]
    for tokens in batches:
        _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in names)
        yield torch.stack([cache[name] for name in names]).numpy()


class SaeLens:
    """CacheActivationsRunner, which fills its buffer to the end: one larger than the request keeps rows again."""

    def __init__(self, folder: Path, tokens: torch.Tensor, width: int, batch: int, *, buffer: int) -> None:
        from datasets import Dataset

        self.folder, self.tokens, self.batch = folder, tokens, batch
        self.model_path, self.width = folder / "model", width
        self.dataset = Dataset.from_dict({"input_ids": tokens.tolist()})
        self.gigabytes = buffer * tokens.shape[1] * width * 4 / 1e9
        self.path = folder / "saelens"
        self.runner: Any = None

    def prepare(self) -> None:
        """Load the model, which is not timed, as nowhere here."""
        from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

        shutil.rmtree(self.path, ignore_errors=True)
        config = CacheActivationsRunnerConfig(
            dataset_path="here", model_name=str(self.model_path), model_batch_size=self.batch,
            model_class_name="AutoModelForCausalLM", hook_name=f"model.layers.{LAYER - 1}", d_in=self.width,
            training_tokens=self.tokens.numel(), context_size=self.tokens.shape[1], shuffle=False, prepend_bos=False,
            new_cached_activations_path=str(self.path), buffer_size_gb=self.gigabytes, device="cpu",
        )  # fmt: skip
        self.runner = CacheActivationsRunner(config, override_dataset=self.dataset)

    def __call__(self) -> None:
        self.found = self.runner.run()

    def stored(self) -> tuple[int, int]:
        return len(self.found) * self.tokens.shape[1], on_disk(self.path)


def rivals(folder: Path, tokens: torch.Tensor, batch: int) -> dict[str, Saved]:
    """Those that are installed, loaded."""
    batches, path = list(tokens.split(batch)), str(folder / "model")
    loaded = AutoModelForCausalLM.from_pretrained(path).eval()
    found = {"output_hidden_states + np.save": Saved(folder / "plain", partial(plain, loaded, batches))}
    if find_spec("nnsight"):
        from nnsight import TransformersModel

        wrapped = TransformersModel(loaded, tokenizer=tokenizer(), task="text-generation")
        found["nnsight + np.save"] = Saved(folder / "nnsight", partial(traced, wrapped, batches))
    else:
        print("nnsight is not installed here, and left out")
    if find_spec("transformer_lens"):
        from transformer_lens.model_bridge import TransformerBridge

        made = TransformerBridge.boot_transformers(path, device="cpu")
        found["TransformerLens bridge + np.save"] = Saved(folder / "bridge", partial(bridge, made, batches))
    else:
        print("transformer-lens is not installed here, and left out")
    return found


def all_layers(folder: Path, tokens: torch.Tensor, asked: argparse.Namespace, repeats: int) -> list[dict[str, Any]]:
    """Every token at every layer."""
    ours = Ours(folder, '"all"', asked.batch_size, repeats)
    others = rivals(folder, tokens, asked.batch_size)
    with torch.no_grad():
        spent = taking_turns({"ours": ours, **others}, repeats)
    rows = []
    n, size = ours.stored()
    for name, rival in others.items():
        theirs, weight = rival.stored()
        rows += speed("all tokens, all layers", spent["ours"], name, spent[name])
        rows.append(row("all tokens, all layers: rows", n, "rows", name, theirs))
        rows.append(row("all tokens, all layers: on disk", size / 1e6, "MB", name, weight / 1e6))
    return rows


def one_layer(folder: Path, tokens: torch.Tensor, asked: argparse.Namespace, repeats: int) -> list[dict[str, Any]]:
    """Every token at one layer, as SAELens keeps it: with the buffer as large as the request, and half of it."""
    if not find_spec("sae_lens"):
        print("sae-lens is not installed here, and left out")
        return []
    rows = []
    width = (QUICK if asked.quick else MIDDLE).width
    for what, buffer in (("a buffer as large as the request", 1), ("a buffer twice the request", 2)):
        ours = Ours(folder, f"[{LAYER}]", asked.batch_size, repeats)
        theirs = SaeLens(folder, tokens, width, asked.batch_size, buffer=buffer * len(tokens))
        spent = taking_turns({"ours": ours, "theirs": theirs}, repeats, before=theirs.prepare)
        (n, size), (m, weight) = ours.stored(), theirs.stored()
        name = f"SAELens CacheActivationsRunner, {what}"
        rows += speed("all tokens, one layer", spent["ours"], name, spent["theirs"])
        rows.append(row("all tokens, one layer: rows", n, "rows", name, m))
        rows.append(row("all tokens, one layer: on disk", size / 1e6, "MB", name, weight / 1e6))
        for path in folder.glob("ours-*"):
            shutil.rmtree(path)
    return rows


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--samples", type=int)
    made.add_argument("--length", type=int, help="tokens of a sample")
    made.add_argument("--batch-size", type=int, default=4)
    asked = made.parse_args()
    length, repeats = asked.length or (128 if asked.quick else 512), 2
    samples = asked.samples or (8 if asked.quick else 16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokens = text_model(folder, asked.quick, samples, length)
        rows = all_layers(folder, tokens, asked, repeats)
        rows += one_layer(folder, tokens, asked, repeats)
    finish(asked, rows)


if __name__ == "__main__":
    main()
