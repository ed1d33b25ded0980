"""Sparse autoencoders of a language model's residual stream on text, one per layer, in sae-lens' own format."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from actstore_extract.demo.optimise import scaled
from actstore_extract.training.saes import Settings, fit, save

if TYPE_CHECKING:
    from sae_lens import SAE

__all__ = ["SaeRecipe", "residuals", "text_scores", "train_sae"]


@dataclass(frozen=True)
class SaeRecipe:
    """How each autoencoder is trained: `k` latents per token on average, not for each."""

    d_sae: int = 256
    k: int = 8
    steps: int = 500
    batch: int = 1024
    learning_rate: float = 2e-3
    dead_after: int = 50
    texts: int = 6000
    held_out_texts: int = 500


@torch.no_grad()
def residuals(decoder: PreTrainedModel, texts: list[list[int]]) -> torch.Tensor:
    """Residual points (L+1, n_tokens, d) of texts, their first token left out.

    Point l is the input of block l; the last is the output of the last block, before the final norm.
    """
    caught: list[torch.Tensor] = []
    modules = [*decoder.get_submodule("layers").children(), decoder.get_submodule("norm")]
    hooks = [
        module.register_forward_pre_hook(
            lambda _, args, kwargs: caught.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        for module in modules
    ]
    batches = []
    try:
        for first in range(0, len(texts), 256):
            chunk = texts[first : first + 256]
            width = max(map(len, chunk))
            ids = torch.tensor([text + [0] * (width - len(text)) for text in chunk])
            kept = torch.arange(width) < torch.tensor([[len(text)] for text in chunk])
            kept[:, 0] = False
            caught.clear()
            decoder(input_ids=ids, use_cache=False)
            batches.append(torch.stack([states[kept] for states in caught]))
    finally:
        for hook in hooks:
            hook.remove()
    return torch.cat(batches, dim=1)


def train_sae(
    recipe: SaeRecipe, x: torch.Tensor, folder: Path, *, generator: torch.Generator, steps_scale: float
) -> "SAE":
    """Fit one autoencoder to activations (n, d), save it as float16 in `folder`, and give it as it loads again."""
    from sae_lens import SAE

    scale = float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    how = Settings(
        features=recipe.d_sae,
        k=recipe.k,
        steps=scaled(recipe.steps, steps_scale),
        batch_size=recipe.batch,
        learning_rate=recipe.learning_rate,
        dead_after=recipe.dead_after,
    )
    lost: list[float] = []
    sae = fit(x * scale, how, generator, advance=lost.append)
    sae.fold_activation_norm_scaling_factor(scale)
    save(sae, folder)
    print(f"{folder.name} {how.steps}/{how.steps} loss {lost[-1]:.3f}", file=sys.stderr)
    return SAE.load_from_disk(folder)


@torch.no_grad()
def text_scores(sae: "SAE", x: torch.Tensor) -> dict[str, float]:
    """On activations (n, d): fraction of variance unexplained, squared error over squared norm, latents per token."""
    latents = sae.encode(x)
    error = (sae.decode(latents) - x).square().sum(1)
    return {
        "fvu": round(float(error.sum() / (x - x.mean(0)).square().sum()), 4),
        "relative_error": round(float((error / x.square().sum(1)).mean()), 4),
        "l0": round(float((latents > 0).sum(1).float().mean()), 2),
    }
