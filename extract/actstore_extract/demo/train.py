"""Train the demo's models again: python -m actstore_extract.demo.train OUT."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

# Threads that spin while they wait make training many times slower on a busy machine; torch reads this when it loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from actstore_extract.demo import adapter, card
from actstore_extract.demo.adapter import CaptionRecipe
from actstore_extract.demo.captions import Captions
from actstore_extract.demo.card import Json
from actstore_extract.demo.clip import ClipRecipe, train_clip
from actstore_extract.demo.corpus import N_COPIES, captions_of, corpus
from actstore_extract.demo.folders import ship_fusion, ship_mapped
from actstore_extract.demo.fusion import FusionRecipe, train_fusion
from actstore_extract.demo.language import LanguageRecipe, texts, train_language_model
from actstore_extract.demo.saes import SaeRecipe, residuals, text_scores, train_sae
from actstore_extract.demo.vqvae import codes, train_vqvae
from actstore_extract.demo.words import fusion_tokenizer, mapped_tokenizer
from actstore_extract.samples.digits import scans
from actstore_extract.shipped import MODELS


@dataclass(frozen=True)
class Run:
    """One training: where it goes, what it draws from, how much of the recipe's steps it takes."""

    folder: Path
    rng: np.random.Generator
    generator: torch.Generator
    steps_scale: float


def main(arguments: list[str] | None = None) -> None:
    """Train what is asked for, each model in its own folder of OUT."""
    options = parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    for name in options.only or MODELS:
        began, began_cpu = time.monotonic(), time.process_time()
        torch.manual_seed(options.seed)
        generator = torch.Generator().manual_seed(options.seed)
        run = Run(options.out / name, np.random.default_rng(options.seed), generator, options.steps_scale)
        run.folder.mkdir(parents=True, exist_ok=True)
        facts = TRAINERS[name](run)
        seconds: Json = {"wall": round(time.monotonic() - began), "cpu": round(time.process_time() - began_cpu)}
        about: dict[str, Json] = {"name": name, **card.ABOUT[name]}
        program: dict[str, Json] = {
            "copies_of_each_train_scan": N_COPIES,
            "seed": options.seed,
            "threads": options.threads,
            "steps_scale": options.steps_scale,
            "training_seconds": seconds,
        }
        card.write(run.folder, about | facts | program, scans())
        print(f"{name}: {seconds}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder that gets one folder per model")
    parser.add_argument("--only", action="append", choices=list(MODELS), help="train this model; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="0.01 tries the program in seconds")
    return parser


def fusion(run: Run, recipe: FusionRecipe) -> dict[str, Json]:
    """Train Chameleon, with or without the gate; the card's facts."""
    tokenizer = fusion_tokenizer()
    data = corpus(scans(), tokenizer, run.rng)
    vqvae = train_vqvae(data.images, steps_scale=run.steps_scale, generator=run.generator)
    image_codes = codes(vqvae, data.images).numpy()
    model = train_fusion(
        recipe, vqvae, image_codes, data.captions, tokenizer.get_vocab(), rng=run.rng, steps_scale=run.steps_scale
    )
    ship_fusion(run.folder, model, tokenizer)
    return {"parameters": model.num_parameters(), "recipe": {"fusion": asdict(recipe)}}


def mapped(run: Run) -> dict[str, Json]:
    """Train CLIP, the language model, the adapter between them and the autoencoders; the card's facts."""
    tokenizer = mapped_tokenizer()
    ids = tokenizer.get_vocab()
    data = corpus(scans(), tokenizer, run.rng)
    clip = train_clip(ClipRecipe(), data, ids, rng=run.rng, steps_scale=run.steps_scale)
    language_model = train_language_model(
        LanguageRecipe(), data.captions, ids, rng=run.rng, steps_scale=run.steps_scale
    )
    with TemporaryDirectory() as folder:
        drawn, trained = adapter.train(
            CaptionRecipe(),
            clip,
            language_model,
            tokenizer,
            data,
            Path(folder),
            rng=run.rng,
            steps_scale=run.steps_scale,
        )
    untrained = adapter.assemble(clip, language_model, ids, drawn)
    save_file(adapter.adapter_weights(untrained), run.folder / "untrained_adapter.safetensors")
    model = adapter.assemble(clip, language_model, ids, trained)
    ship_mapped(run.folder, model, tokenizer)
    # The autoencoders are fitted to the weights as shipped, which are rounded.
    shipped = model.float()  # type: ignore[no-untyped-call]
    saes = autoencoders(run, shipped.model.language_model, data.captions, tokenizer)
    return {
        "parameters": model.num_parameters(),
        "recipe": {
            "clip": asdict(ClipRecipe()),
            "language": asdict(LanguageRecipe()),
            "adapter": asdict(CaptionRecipe()),
        },
        "saes": saes,
    }


def autoencoders(
    run: Run, decoder: PreTrainedModel, captions: Captions, tokenizer: PreTrainedTokenizerFast
) -> dict[str, Json]:
    """Train one autoencoder per residual point of the decoder; recipe and scores."""
    recipe, ids = SaeRecipe(), tokenizer.get_vocab()
    unread = captions_of(scans(), "test", tokenizer)
    x = residuals(decoder, texts(LanguageRecipe(), captions, ids, n=recipe.texts, rng=run.rng))
    held_out = residuals(decoder, texts(LanguageRecipe(), unread, ids, n=recipe.held_out_texts, rng=run.rng))
    scores: list[Json] = []
    for layer in range(len(x)):
        folder = run.folder / "saes" / f"layer-{layer}"
        sae = train_sae(recipe, x[layer], folder, generator=run.generator, steps_scale=run.steps_scale)
        scores.append({"layer": layer, **text_scores(sae, held_out[layer])})
    return {"sae-lens": version("sae-lens"), "recipe": asdict(recipe), "on_texts_about_test_scans": scores}


TRAINERS: dict[str, Callable[[Run], dict[str, Json]]] = {
    "digits-fusion": lambda run: fusion(run, FusionRecipe(gated=False)),
    "digits-mapped": mapped,
    "digits-gated": lambda run: fusion(run, FusionRecipe(gated=True, text_to_image=0.25)),
}

if __name__ == "__main__":
    main()
