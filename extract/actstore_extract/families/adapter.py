"""Adapters: one linear map from what a vision model sees into the width of a language model."""

import json
import math
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from actstore.errors import ActstoreError, nearest
from actstore.format.given import suffix_of
from actstore.storage import local
from actstore_extract.families.errors import LoadError
from actstore_extract.saved import load_torch

__all__ = ["SCALES", "Adapter", "digest", "read_adapter", "write_adapter"]

_FORMAT, _FACTS = "actstore-adapter-2", "actstore"
# What an adapter's output is multiplied with, by the width of the language model.
SCALES: dict[str, Callable[[int], float]] = {"1": lambda _: 1.0, "sqrt(d)": lambda d: d**0.5}
_DIGESTED = 4096  # numbers of each weight


class Adapter(nn.Module):
    """Features (..., d_vision) to vectors (..., d_model) as block 0 receives them.

    `scale` is what that asks for. A language model that multiplied its input embeddings itself (Gemma in Transformers
    before 5.4, by the root of its width) trained adapters whose output is smaller by that: "sqrt(d)". One whose output
    went into block 0 as it was is "1". `facts` are what the file says of the training. With `pool` there, features are
    those (..., patches, d_vision) of a square picture, of which the mean of each pool x pool patches is mapped;
    `processor` there changes settings of the tower's image processor.
    """

    def __init__(self, linear: nn.Linear, scale: str, facts: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.linear, self.scale, self.facts = linear, scale, dict(facts or {})
        self.factor = SCALES[scale](linear.out_features)
        self.pool = int(self.facts.get("pool", "1"))
        self.processor: dict[str, object] = json.loads(self.facts.get("processor", "{}"))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """The vectors, in the dtype of the weights."""
        x: torch.Tensor = self.linear(self.pooled(features))
        return x * torch.tensor(self.factor, dtype=x.dtype)  # rounded as Gemma rounded it

    def pooled(self, features: torch.Tensor) -> torch.Tensor:
        """What of the features the map reads: of every patch, or the mean of each pool x pool patches."""
        if self.pool == 1:
            return features
        n = math.isqrt(features.shape[-2]) // self.pool
        patches = features.reshape(*features.shape[:-2], n, self.pool, n, self.pool, features.shape[-1])
        return patches.mean((-4, -2)).flatten(-3, -2)


def read_adapter(path: Path, *, scale: str | None = None) -> Adapter:
    """The adapter in a .safetensors of ours, or in a .pth state dict of one Linear, whose `scale` must be given."""
    if not path.is_file():
        raise LoadError(f"no adapter at {path}: put the projector's .pth or .safetensors there")
    tensors, facts = _safetensors(path) if suffix_of(path) == ".safetensors" else (_state_dict(path), {})
    said = facts.pop("scale", None)
    if said is not None and scale is not None and said != scale:
        raise LoadError(f"{path}: its metadata says scale {said!r}, not {scale!r}; leave the scale out")
    return Adapter(_linear(tensors, path), _checked(said or scale, path), facts)


def write_adapter(path: Path, adapter: Adapter) -> None:
    """Keep an adapter with its scale and its facts: the same bytes for the same adapter.

    The facts are one JSON text under one key, because safetensors writes several keys in any order.
    """
    weights = {name: tensor.contiguous() for name, tensor in adapter.linear.state_dict().items()}
    facts = {**adapter.facts, "format": _FORMAT, "scale": adapter.scale}
    with local.naming(path):
        save_file(weights, path, {_FACTS: json.dumps(facts, sort_keys=True)})
    local.open_to_readers(path)


def digest(module: nn.Module) -> str:
    """sha256 of the first numbers of every weight in bfloat16: the same whatever else a model is kept in.

    float16, whose smallest numbers are others, gives another.
    """
    total = sha256()
    for name, weight in sorted(module.state_dict().items()):
        numbers = weight.flatten()[:_DIGESTED].to("cpu", torch.bfloat16)
        total.update(json.dumps([name, list(weight.shape)]).encode() + numbers.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _checked(scale: str | None, path: Path) -> str:
    if scale not in SCALES:
        what = "does not say how its output is scaled" if scale is None else f"unknown scale {scale!r}"
        advice = (
            'set scale = "1" if it was trained to feed block 0 as it is, or "sqrt(d)" if the model multiplied its '
            "input embeddings, as Gemma did in transformers before 5.4"
        )
        raise LoadError(f"{path}: {what}{nearest(scale or '', list(SCALES), advice)}")
    return scale


def _safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            facts = json.loads(said[_FACTS]) if _FACTS in said else said  # actstore-adapter-1 had a key for each
            facts.pop("format", None)
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise LoadError(f"{path}: {error}") from error


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors alone: a pickle that holds anything else is refused before it runs."""
    try:
        found = load_torch(path)
    except (ActstoreError, OSError) as error:
        raise LoadError(f"{path} is no state dict of tensors: {error}") from error
    if not isinstance(found, Mapping) or not all(isinstance(x, torch.Tensor) for x in found.values()):
        raise LoadError(f"{path} is no state dict of tensors")
    return dict(found)


def _linear(tensors: Mapping[str, torch.Tensor], path: Path) -> nn.Linear:
    """The one Linear of a state dict, under whatever prefix."""
    weight, bias = (
        [x for name, x in tensors.items() if name.rpartition(".")[2] == part and x.ndim == ndim]
        for part, ndim in (("weight", 2), ("bias", 1))
    )
    if len(tensors) != len(weight) + len(bias) or len(weight) != 1 or len(bias) > 1:
        raise LoadError(f"{path} holds {', '.join(sorted(tensors)) or 'nothing'}; a weight and a bias are wanted")
    d_model, d_vision = weight[0].shape
    if bias and len(bias[0]) != d_model:
        raise LoadError(f"{path}: a bias of {len(bias[0])} numbers for a weight of {d_model} x {d_vision}")
    linear = nn.Linear(d_vision, d_model, bias=bool(bias), dtype=weight[0].dtype)
    linear.load_state_dict({"weight": weight[0], **({"bias": bias[0]} if bias else {})})
    return linear
