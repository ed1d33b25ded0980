"""Attention by Transformers itself and what is captured of it, of tiny models, and how far two runs are apart."""

import numpy as np
import torch

import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.attention import AttentionSelection, CapturedAttention
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.roles import parse_role, positions

ROLES = tuple(map(parse_role, ["eoi", "last-image", "image", "random-image-3", "at-0", "last"]))
NONE = Selection(np.empty(0, np.int64))
SIZE = 5
ROUNDING = 1e-4  # float32, on logits of that size; two kernels differ as much where nothing is knocked out


def make(model: Model, texts: list[str], *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


def attention(model: Model, batch: Batch, **options: object) -> CapturedAttention:
    """Attention in all blocks and at the point after the last."""
    selection = AttentionSelection(**{"keys": ROLES, "per_head": True, "mass": True, **options})
    layers = range(model.n_layers + 1)
    found = capture(model, batch, [NONE] * len(batch), layers=layers, attention=selection).attention
    assert found is not None
    return found


@torch.no_grad()
def maps(model: Model, batch: Batch, *, skipping: bool = False) -> torch.Tensor:
    """Every weight, by Transformers: (layers, samples, heads, slots, slots); `skipping` blocks that have none."""
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation({"": "eager"})
    try:
        found = model.module(**batch.inputs, output_attentions=True, use_cache=False).attentions
        return torch.stack([x for x in found if not skipping or x.shape[2:] == (batch.n_slots,) * 2])
    finally:
        model.decoder.set_attn_implementation({"": before})


def expected(batch: Batch, full: torch.Tensor, shift: int = 0) -> CapturedAttention:
    """The same from whole maps, weight by weight, one more layer of NaN; `shift` moves the keys of the roles."""
    n_layers, n_samples, n_heads = full.shape[:3]
    n_queries = max(len(layout.text) for layout in batch.layouts)
    n_keys = max(layout.image_end + 1 for layout in batch.layouts)
    columns = {role.name: torch.full((n_layers + 1, n_samples, n_heads, n_queries), torch.nan) for role in ROLES}
    mass = torch.full((n_layers + 1, n_samples, n_keys), torch.nan)
    for i, layout in enumerate(batch.layouts):
        offset = int(batch.offset[i])
        own = full[:, i, :, offset:, offset:][:, :, layout.text]
        mass[:-1, i, : layout.image_end + 1] = own.mean(1).sum(1)[:, : layout.image_end + 1]
        for role in ROLES:
            at = positions(role, layout, seed=0, sample_id=batch.sample_ids[i])
            if at is not None:
                columns[role.name][:-1, i, :, : len(layout.text)] = own[..., at + shift].sum(-1)
    return CapturedAttention(columns, mass)


def close(x: torch.Tensor, y: torch.Tensor, *, atol: float = 1e-5) -> bool:
    """NaN in the same places and no difference above `atol`."""
    assert x.shape == y.shape
    return torch.allclose(x, y, rtol=0, atol=atol, equal_nan=True)


def same(x: CapturedAttention, y: CapturedAttention) -> bool:
    return close(x.mass, y.mass) and all(close(x.columns[name], y.columns[name]) for name in y.columns)


def error(batch: Batch, x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference at the samples' own slots; NaN if there is one."""
    assert x.shape == y.shape
    own = torch.zeros(y.shape[:2], dtype=torch.bool)
    for i, layout in enumerate(batch.layouts):
        own[i, int(batch.offset[i]) :] = True
        own[i, int(batch.offset[i]) + layout.length : batch.n_slots] = False
    real = own[..., None] & (y > torch.finfo(y.dtype).min)
    return scaled(x, y, real)


def scaled(x: torch.Tensor, y: torch.Tensor, real: torch.Tensor) -> float:
    """Largest difference where `real`, as it would be on logits of size 5, which tolerances are about."""
    return float((x - y)[real].abs().max() / y[real].abs().max()) * SIZE
