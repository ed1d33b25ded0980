"""One sparse autoencoder fitted to vectors, in sae-lens' own form."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

from actstore.storage import local

if TYPE_CHECKING:
    from sae_lens import BatchTopKTrainingSAE

__all__ = ["Settings", "fit", "library", "loaded", "save"]

MATRICES = ("W_enc", "W_dec")


@dataclass(frozen=True)
class Settings:
    """How an autoencoder is trained: `k` features of a vector on average, over a batch, not of each (BatchTopK).

    The learning rate is constant, and falls to 0 over the last fifth of the steps. A feature is dead, and learns what
    the others leave (sae-lens' auxiliary loss), when it was active nowhere in the last `dead_after` batches.
    """

    features: int = 1024
    k: int = 64
    steps: int = 600
    batch_size: int = 1024
    learning_rate: float = 2e-3
    dead_after: int = 50
    seed: int = 0


def fit(
    x: torch.Tensor,
    how: Settings,
    generator: torch.Generator,
    *,
    hook: str | None = None,
    model: str | None = None,
    advance: Callable[[float], None] = lambda _: None,
) -> "BatchTopKTrainingSAE":
    """An autoencoder of vectors (n, d) whose dimensions are about as long as each other; `advance` gets each loss.

    `hook` and `model` say where the vectors are from, by the names of TransformerLens.
    """
    sae_lens = library()
    from sae_lens.saes.sae import SAEMetadata, TrainStepInput

    said = {name: value for name, value in (("hook_name", hook), ("model_name", model)) if value is not None}
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=x.shape[1],
        d_sae=how.features,
        k=how.k,
        topk_threshold_lr=min(1.0, 5 / how.steps),  # a running mean that begins at 0: of it 0.7 % are left at the end
        device=str(x.device),
        metadata=SAEMetadata(**said),
    )
    sae: BatchTopKTrainingSAE = sae_lens.BatchTopKTrainingSAE(config)
    optimizer = torch.optim.Adam(sae.parameters(), lr=how.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 5 * (1 - step / how.steps)))
    last_fired = torch.zeros(how.features, device=x.device)
    for step in range(how.steps):
        batch = x[torch.randint(len(x), (how.batch_size,), generator=generator)]
        dead = step - last_fired > how.dead_after
        out = sae.training_forward_pass(TrainStepInput(batch, {}, dead, step, False))
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        schedule.step()
        last_fired[(out.feature_acts > 0).any(0)] = step
        advance(float(out.loss.detach()))
    return sae


def save(sae: "BatchTopKTrainingSAE", folder: Path) -> None:
    """Write what it is after training, a JumpReLU, into a folder: its matrices as float16, biases as they are."""
    with local.naming(folder):
        weights, _ = sae.save_inference_model(folder)
        tensors = {name: x.half() if name in MATRICES else x.float() for name, x in load_file(weights).items()}
        save_file(tensors, weights)
    weights.chmod(0o644)  # saved for the owner alone, but shipped to everybody


def loaded(folder: Path, device: torch.device) -> torch.nn.Module:
    """What `save` wrote, in float32: it takes vectors (n, d) and rebuilds them; `encode` gives features."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they are about is said in cfg.json, which is ours
        found: torch.nn.Module = library().SAE.load_from_disk(folder, device=str(device), dtype="float32").eval()
    return found


def library() -> ModuleType:
    """sae-lens, which warns of what it imports itself."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
        return import_module("sae_lens")
