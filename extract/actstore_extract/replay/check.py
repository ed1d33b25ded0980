"""The check of every replay: a sample that nothing was done to has to say what it said at extraction."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from actstore.store import Store
from actstore_extract.replay.checkpoint import here
from actstore_extract.replay.decoder import Decoder
from actstore_extract.replay.sample import Vectors
from actstore_extract.replay.steps import ReplayError
from actstore_extract.replay.stored import Stored

__all__ = ["Check"]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # of probabilities, by the coarsest number type


class Check:
    """Compares un-patched replays with what the store says of the sample's next token.

    `deviations` are how far probabilities were from those stored, of each sample that has some; `tolerance` is how far
    they may be.
    """

    def __init__(self, store: Store, decoder: Decoder, tolerance: float | None = None) -> None:
        self.store, self.decoder = store, decoder
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        coarsest = max(TOLERANCE[name] for name in (self.dtype, store.header.dtype))
        self.tolerance = coarsest if tolerance is None else tolerance
        self.deviations: list[float] = []

    def __call__(self, sample: Stored, logits: Vectors) -> Vectors:
        """The logits (vocabulary,), if they are what the sample said; ReplayError, and why, if not."""
        off = _deviation(logits, sample.sample)
        if off is None:
            return logits
        self.deviations.append(off)
        if not off <= self.tolerance:
            raise ReplayError(
                f"{sample.sample_id}: replayed as it was, it says something else than at extraction: a probability "
                f"differs by {off:.4f}, more than {self.tolerance:g}. {self._differences()}"
            )
        return logits

    def _differences(self) -> str:
        """What could be the reason."""
        run, now = self.store.run, here()
        then = run.get("versions") or {}
        pairs = {
            "number type of the model": (run.get("dtype"), self.dtype),
            "number type of the store": (run.get("dtype"), self.store.header.dtype),
            "attention kernel": (run.get("attention"), self.decoder.decoder.config._attn_implementation),
            "device": (run.get("device"), now["device"]),
            **{name: (then.get(name), now["versions"][name]) for name in ("torch", "transformers")},
        }
        said = [f"{what}: {before} then, {after} now" for what, (before, after) in pairs.items() if before != after]
        known = "; ".join(said) or "nothing that is known: are these the weights?"
        return f"What differs: {known}. Replay in the model's own number type, or allow more with --tolerance."


def _deviation(logits: Vectors, sample: Mapping[str, Any]) -> float | None:
    """By how much the probabilities of the likeliest tokens differ at most from those that were stored."""
    stored = sample["top_probabilities"]
    if not stored or sample["next_token_id"] is None:
        return None
    weights = np.exp(logits.astype(np.float64) - logits.max())
    p = weights / weights.sum()
    top = np.sort(p)[::-1][: len(stored)]
    first = p[int(sample["next_token_id"])] - sample["next_token_probability"]
    return float(max(np.abs(top - np.array(stored)).max(), abs(first)))
