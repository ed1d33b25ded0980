"""Sparse autoencoders of a language model's residual stream on text, one per layer, in sae-lens' own format."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from actstore_extract.demo.optimise import scaled

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
    from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
    from sae_lens.saes.sae import TrainStepInput

    config = BatchTopKTrainingSAEConfig(d_in=x.shape[1], d_sae=recipe.d_sae, k=recipe.k)
    sae = BatchTopKTrainingSAE(config)
    scale = float(x.shape[1] ** 0.5 / x.norm(dim=1).mean())
    steps = scaled(recipe.steps, steps_scale)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 5 * (1 - step / steps)))
    last_fired = torch.zeros(recipe.d_sae)
    for step in range(steps):
        batch = x[torch.randint(len(x), (recipe.batch,), generator=generator)] * scale
        dead = step - last_fired > recipe.dead_after
        out = sae.training_forward_pass(TrainStepInput(batch, {}, dead, step, False))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        schedule.step()
        last_fired[(out.feature_acts > 0).any(0)] = step
    sae.fold_activation_norm_scaling_factor(scale)
    weights, _ = sae.save_inference_model(folder)
    save_file({name: tensor.half() for name, tensor in load_file(weights).items()}, weights)
    weights.chmod(0o644)  # saved for the owner alone, but shipped to everybody
    print(f"{folder.name} {steps}/{steps} loss {out.loss.item():.3f}", file=sys.stderr)
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
