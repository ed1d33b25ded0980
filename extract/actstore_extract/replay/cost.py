"""What replays of a store's samples can be made of, and what they would cost."""

import time
from dataclasses import dataclass, replace

from actstore_extract.replay.pairing import Pairing
from actstore_extract.replay.patched import METHODS, Patched, able, kept, lacking
from actstore_extract.replay.reader import together

__all__ = ["Estimate", "estimate", "report"]

WARM = 5.0  # seconds that are too few to be told from those of beginning


@dataclass(frozen=True)
class Estimate:
    """How many receivers, replays (receivers x donors x layers) and un-patched ones; seconds, measured on one receiver
    with its donors; bytes of the weights that are held at once and of what is read and computed beside them."""

    receivers: int
    replays: int
    unpatched: int
    seconds: float
    weights: int
    working: int


def report(pairing: Pairing, role: str, layers: tuple[int, ...]) -> dict[str, str]:
    """What is stored, and of each way whether it can be gone, or what is missing for it."""
    store = pairing.reader.store
    ways = {way: "can be replayed" if able(way, pairing, role, layers) else lacking(role, way) for way in METHODS}
    return {"stored": kept(store), **ways}


def estimate(patched: Patched) -> Estimate:
    """What all of it would cost."""
    pairing, decoder = patched.pairing, patched.decoder
    first = next(iter(pairing.donors))
    donors = sum(map(len, pairing.donors.values()))
    one = patched.on(replace(pairing, donors={first: pairing.donors[first]}))
    seconds = _seconds(one)
    if seconds < WARM:
        seconds = _seconds(one)  # the first time, much is made that is kept
    vocabulary = int(decoder.module.config.get_text_config().vocab_size)
    branches = 1 + len(pairing.donors[first]) * len(patched.layers)
    samples = list(pairing.samples.values())
    side = min(together(samples), len(pairing.donors))
    return Estimate(
        receivers=len(pairing.donors),
        replays=donors * len(patched.layers),
        unpatched=len(pairing.sources) + len(pairing.donors),
        seconds=seconds * donors / len(pairing.donors[first]),
        weights=decoder.weight_bytes,
        working=side * (max(one.layer_bytes for one in samples) + 4 * branches * vocabulary),
    )


def _seconds(patched: Patched) -> float:
    started = time.monotonic()
    for _ in patched.outcomes():
        pass
    return time.monotonic() - started
