"""The decoder that a run card names: the same weights, or none."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from actstore_extract.replay.decoder import Decoder, load_decoder
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.reader import model_section
from actstore_extract.run.card import made_on
from actstore_extract.run.fingerprint import decoder_weights, fingerprint
from actstore_extract.run.settings import changed_decoder
from actstore_extract.shipped import located

__all__ = ["here", "recorded_decoder"]

KERNELS = ("sdpa", "eager")  # attention that every CPU has


def recorded_decoder(
    run: Mapping[str, Any],
    *,
    path: str | None = None,
    dtype: str | None = None,
    low_memory: bool = False,
    force: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Decoder:
    """The decoder that made a store, by its run card, or the one at `path`, a folder or a shipped name, in its number
    type or another.

    ReplayError for weights with another hash, or a configuration or tokenizer that differs, unless `force`.
    """
    section = model_section(run)
    if run.get("inject"):
        raise ReplayError(f"its adapter puts the image in at layer {run['inject']}, which a replay does not do")
    name = path or section["path"]
    where = located(name)
    if section.get("remote_code") and not path:
        raise ReplayError(f"{name} runs code that its checkpoint brings along, which a replay does not run")
    revision = None if path else section.get("revision")
    decoder = run.get("decoder_sha256")  # None in a store made before it was kept, and where it is no part of its own
    found = (decoder and decoder_weights(where)) or fingerprint(where, revision)["weights_sha256"]
    then = str(decoder or run["weights_sha256"])
    if found != then:
        what = f"the weights at {where} are not those that made the store: sha256 {found[:12]}, not {then[:12]}"
        if not force:
            raise ReplayError(f"{what}; give their folder with --model, or replay others with --force")
        say(f"{what}; replayed all the same, as asked")
    if differing := changed_decoder(run.get("settings"), where, revision):
        lines = (f"{key} {before!r} then, {now!r} now" for key, (before, now) in differing.items())
        what = f"the model at {where} is not set up as the one that made the store: {'; '.join(lines)}"
        if not force:
            raise ReplayError(f"{what}; give its folder with --model, or replay another with --force")
        say(f"{what}; replayed all the same, as asked")
    attention = run.get("attention") if run.get("attention") in KERNELS else None
    if attention is None:
        say(f"attention ran as {run.get('attention')} at extraction; replayed as this model does it on a CPU")
    return load_decoder(
        where,
        family=section.get("family"),
        dtype=getattr(torch, dtype or str(run["dtype"])),
        revision=revision,
        attention=attention,
        blocked=section.get("blocked") or (),
        low_memory=low_memory,
    )


def here() -> dict[str, Any]:
    """The device and the versions of what replays, as run cards have them."""
    return made_on(torch.device("cpu"))
