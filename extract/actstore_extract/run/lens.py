"""The lens of a model: its final norm and unembedding as numbers, held against what the model itself says."""

from contextlib import suppress
from copy import deepcopy
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from actstore.errors import ActstoreError
from actstore.format.lens import Lens, Optics
from actstore.format.names import dtype_named
from actstore_extract.families import Encoded, Model
from actstore_extract.forward.capture import Selection, capture

__all__ = ["LensError", "lens_of"]

_BLOCK = 4096  # rows of the unembedding that are copied to the host at a time
_ROUNDING = {"float32": 1e-3, "float16": 0.01, "bfloat16": 0.05}  # what it may do to logits, of their spread


class LensError(ActstoreError):
    """The lens of this model cannot be kept."""


@torch.no_grad()
def lens_of(model: Model, encoded: Encoded, dtype: str) -> Lens:
    """The model's lens with its unembedding in a number type of stores.

    LensError for a model without head, and for one whose head and norm do not give the logits that it gives itself
    after a sample.
    """
    lens = _taken(model, dtype)
    *others, last = [replace(lens.optics, scale=scale, softcap=cap) for scale, cap in model.kind.on_logits(model)]
    for optics in others:
        with suppress(LensError):
            return _checked(replace(lens, optics=optics), model, encoded, dtype)
    return _checked(replace(lens, optics=last), model, encoded, dtype)


def _taken(model: Model, dtype: str) -> Lens:
    """The lens, without what the model does to its logits."""
    head = model.head
    if head is None:
        raise LensError(f"{type(model.module).__name__} has no language-model head, so no lens; set lens = false")
    linear = cast(nn.Linear, getattr(head, "linear", head))  # CLIP + Gemma's head is capped
    weight = linear.weight
    if weight.device.type == "meta":
        raise LensError("the head's weights are not in memory: give the model more, or set lens = false")
    kind, eps, scale, shift = _norm(model)
    unembedding = np.concatenate([_stored(weight[i : i + _BLOCK], dtype) for i in range(0, len(weight), _BLOCK)])
    bias = torch.zeros(len(weight)) if linear.bias is None else linear.bias.float().cpu()
    bias[model.kind.never_said(model)] = -torch.inf
    return Lens(Optics(kind, eps, len(weight)), scale, shift, bias.numpy(), unembedding)


def _stored(rows: torch.Tensor, dtype: str) -> NDArray[np.generic]:
    """Rows as a store keeps them: bit patterns of bfloat16, or floats."""
    return dtype_named(dtype).encode(rows.float().cpu().numpy())


def _norm(model: Model) -> tuple[str, float, NDArray[np.float32], NDArray[np.float32]]:
    """Kind and epsilon of the final norm, and what it multiplies with and adds (d,).

    Of a vector of ones with alternating signs, whose mean is 0 and whose mean square is 1, a norm leaves its weight;
    of a vector of ones an RMS norm leaves it too, a layer norm nothing.
    """
    if model.norm is None:
        raise LensError(f"{type(model.decoder).__name__} has no final norm, so no lens; set lens = false")
    norm, d = deepcopy(model.norm).float().cpu(), model.d_model
    named = [getattr(norm, name) for name in ("eps", "variance_epsilon") if hasattr(norm, name)]
    if not named or d % 2:
        raise LensError(f"the final norm of this model is a {type(norm).__name__}, which no lens has; set lens = false")
    eps = float(named[0])
    signs = torch.ones(d)
    signs[::2] = -1
    x = torch.stack([signs, -signs, torch.ones(d)])[:, None]
    up, down, ones = type(norm).forward(norm, x)[:, 0]  # past the hooks of a model that is spread over devices
    shift = (up + down) / 2
    weight = (up - down) / 2 * signs * (1 + eps) ** 0.5
    kind = "layernorm" if (ones - shift).abs().amax() < weight.abs().amax() / 2 else "rmsnorm"
    return kind, eps, weight.numpy(), shift.numpy()


def _checked(lens: Lens, model: Model, encoded: Encoded, dtype: str) -> Lens:
    """The lens; LensError unless of one sample's last vector it gives the model's own logits, up to rounding."""
    batch = model.collate([encoded])
    last = Selection(np.array([encoded.length - 1]))
    found = capture(model, batch, [last], layers=[model.n_layers], next_token=True)
    assert found.next_logits is not None
    said = found.next_logits[0].double().numpy()
    read = lens.logits(lens.normed(found.residual[0].float().numpy()))[0].astype(np.float64)
    heard = np.isfinite(read)
    off = float(np.sqrt(np.square(read - said)[heard].mean()) / said[heard].std())
    most = max(_ROUNDING[dtype], _ROUNDING[str(model.dtype).removeprefix("torch.")])
    if off > most or (said[~heard] > said[heard].min()).any():
        raise LensError(
            f"its final norm and head do not give what {type(model.module).__name__} says: logits are off by {off:.1%} "
            f"of their spread, where rounding makes {most:.1%}; this kind of model needs `on_logits` in its family, "
            "or set lens = false"
        )
    return lens
