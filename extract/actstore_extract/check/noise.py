"""Noise: how far two forwards of one sample may be from each other by rounding alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from actstore_extract.check.view import View, view
from actstore_extract.families import Encoded, Model

__all__ = ["Limit", "distance", "limit"]

# Relative. A comparison may be three times as far as eager is from SDPA on the same sample, or a batch of copies from
# one alone, within these bounds: below the first is rounding, above the second are kernels that do not do the same.
_TIMES = 3
_LEAST = {torch.float32: 1e-4, torch.float16: 4e-3, torch.bfloat16: 3e-2}
_MOST = {torch.float32: 2e-3, torch.float16: 4e-2, torch.bfloat16: 3e-1}
_FAR = 100.0
_SHARE = 0.9  # of the positions are at least so near: a router's tie that falls otherwise moves a token by itself


@dataclass(frozen=True)
class Limit:
    """`noise` is what was measured, if two kernels could be; `allowed` is what differences may be, and `strict` those
    of two samples in one forward, where one kernel computes both in the same way."""

    noise: float | None
    allowed: float
    strict: float


def distance(one: View, other: View) -> float:
    """The relative difference of two views of a sample: that of its logits, or at a residual point of nine tenths of
    its positions, whichever is larger; infinite where only one is finite."""
    apart = (one.points - other.points).norm(dim=-1) / other.points.norm(dim=-1).clamp(min=1e-30)
    each = [*apart.quantile(_SHARE, dim=-1).tolist(), _apart(one.logits, other.logits)]
    return max(float("inf") if x != x else x for x in each)


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """Logits (vocabulary,) differ as probabilities do: a number added to all of them counts for nothing, nor does how
    far below the highest a token is that is never said."""
    one, other = (x.clamp(min=float(x.max()) - _FAR) for x in (one, other))
    one, other = one - one.mean(), other - other.mean()
    return float((one - other).norm() / other.norm().clamp(min=1e-30))


def limit(model: Model, encoded: Encoded, plain: View, batch_size: int) -> Limit:
    """What differences from the plain view of a sample alone are allowed; it may run in batches of that size."""
    coarse = model.dtype if model.dtype in _LEAST else torch.bfloat16  # of quantised weights
    measured = [_of_kernels(model, encoded, plain), _of_sizes(model, encoded, plain, batch_size)]
    noise = max((one for one in measured if one is not None), default=None)
    least, most = _LEAST[coarse], _MOST[coarse]
    return Limit(
        noise,
        allowed=min(max(_TIMES * (noise or 0.0), least), most),
        strict=min(max(noise or 0.0, least / 2), most),
    )


def _of_kernels(model: Model, encoded: Encoded, plain: View) -> float | None:
    """How far eager attention is from SDPA; None where there is but one of them, or no room for eager's weights."""
    with _other_kernel(model) as is_other:
        try:
            return distance(view(model, model.collate([encoded])), plain) if is_other else None
        except RuntimeError:
            return None


def _of_sizes(model: Model, encoded: Encoded, plain: View, batch_size: int) -> float | None:
    """How far the first of a batch of copies is from one alone; None where they do not run together."""
    try:
        seen = view(model, model.collate([encoded] * batch_size))
    except Exception:  # whatever a batch fails of: whether it may run as one is not asked here, but in batches
        return None
    return distance(replace(seen, logits=plain.logits), plain)


@contextmanager
def _other_kernel(model: Model) -> Iterator[bool]:
    """Inside, the decoder attends by eager where it has SDPA, else by SDPA; whether it can."""
    before = str(model.decoder.config._attn_implementation)
    is_other = True
    try:
        try:
            model.decoder.set_attn_implementation({"": "sdpa" if before == "eager" else "eager"})
        except (ImportError, ValueError):  # this architecture has but one
            is_other = False
        yield is_other
    finally:
        model.decoder.set_attn_implementation({"": before})
