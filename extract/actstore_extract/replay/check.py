"""The check of every replay: a sample that nothing was done to has to come to what it came to at extraction."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from actstore.store import Store
from actstore_extract.replay.checkpoint import here
from actstore_extract.replay.decoder import Decoder
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.reader import NOWHERE, Stored
from actstore_extract.replay.sample import Vectors

__all__ = ["Check", "Deviation"]

TOLERANCE = {"float32": 1e-3, "bfloat16": 0.15, "float16": 0.02}  # relative, by the coarsest number type
DEEPER = 10  # times as many of the replayed tokens are searched for those that were stored


class Deviation(NamedTuple):
    """How far a replay is from what was stored, relative to it; None where nothing is stored to compare with.

    `said`: the absolute differences of the stored tokens' probabilities, added up, over the sum of those stored, so
    that it is near 1 for another distribution however flat both are. `output`: the distance of the last token's vector
    at the output, over that which the replayed blocks moved it.
    """

    said: float | None
    output: float | None

    @property
    def largest(self) -> float:
        """The larger of both; NaN, which is no number that anything may differ by, if one is."""
        return float(np.max([one for one in self if one is not None], initial=0.0))


class Check:
    """Compares un-patched replays with what the store has of the sample: its next tokens, its vectors at the output.

    `deviations` are those of each sample that has something to compare with; `tolerance` is how large they may be.
    """

    def __init__(self, store: Store, decoder: Decoder, tolerance: float | None = None) -> None:
        self.store, self.decoder = store, decoder
        self.dtype = str(decoder.dtype).removeprefix("torch.")
        coarsest = max(TOLERANCE[name] for name in (self.dtype, store.header.dtype))
        self.tolerance = coarsest if tolerance is None else tolerance
        self.deviations: list[Deviation] = []

    def __call__(self, samples: Sequence[Stored], logits: Vectors, last: Vectors, *, layer: int) -> None:
        """Next-token logits (samples, vocabulary) and last tokens' vectors (samples, d) at the output, of replays from
        `layer` on; ReplayError, and why, for a sample that comes to something else than it did."""
        for sample, its, off in zip(samples, logits, self._outputs(samples, last, layer), strict=True):
            deviation = Deviation(self._said(its, sample.sample), off)
            if deviation == (None, None):
                continue
            self.deviations.append(deviation)
            if not deviation.largest <= self.tolerance:
                raise ReplayError(
                    f"{sample.sample_id}: replayed as it was, it comes to something else than at extraction: "
                    f"{_in_words(deviation)}; {self.tolerance:g} is allowed. {self._differences()}"
                )

    def _said(self, logits: Vectors, sample: Mapping[str, Any]) -> float | None:
        stored = sample["top_probabilities"]
        if not stored:
            return None
        weights = np.exp(logits.astype(np.float64) - logits.max())
        p = weights / weights.sum()
        found: dict[str, list[float]] = {}
        for token in np.argsort(-p, kind="stable")[: DEEPER * len(stored)]:
            found.setdefault(self.decoder.text(int(token)), []).append(float(p[token]))
        # Several tokens can have one text: those stored are the likeliest of them, as those found come first.
        again = [found[text].pop(0) if found.get(text) else 0.0 for text in sample["top_tokens"]]
        return float(np.abs(np.array(stored) - again).sum() / np.sum(stored))

    def _outputs(self, samples: Sequence[Stored], last: Vectors, layer: int) -> list[float | None]:
        """How far each sample's last vector is from the stored one."""
        rows = np.array([sample.residual_rows[-1] for sample in samples])
        is_kept = (rows != NOWHERE) & (layer < self.decoder.n_layers <= max(self.store.layers, default=NOWHERE))
        if not is_kept.any():
            return [None] * len(samples)
        before, after = (self.store.residual(rows[is_kept], at) for at in (layer, self.decoder.n_layers))
        off = np.linalg.norm(last[is_kept] - after, axis=1) / np.linalg.norm(after - before, axis=1)
        found = iter(off.tolist())
        return [next(found) if kept else None for kept in is_kept]

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


def _in_words(deviation: Deviation) -> str:
    said = f"probabilities of the likeliest tokens by {deviation.said:.3g}" if deviation.said is not None else ""
    output = f"the vector at the output by {deviation.output:.3g}" if deviation.output is not None else ""
    return " and ".join(filter(None, (said, output))) + ", relative"
