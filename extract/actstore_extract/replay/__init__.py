"""Replays: a model's forward gone on with from stored residual streams, without images, vision tower or GPU."""

from typing import TYPE_CHECKING

from actstore.handing import handed_on

if TYPE_CHECKING:
    from actstore_extract.replay.check import Check, Deviation
    from actstore_extract.replay.checkpoint import recorded_decoder
    from actstore_extract.replay.cost import Estimate, estimate, report
    from actstore_extract.replay.decoder import Decoder, load_decoder
    from actstore_extract.replay.errors import ReplayError
    from actstore_extract.replay.knocked import KnockedOut, knocked_out
    from actstore_extract.replay.pairing import Asked, Pairing, chosen, known_class, paired
    from actstore_extract.replay.patched import METHODS, Outcome, Patched, method
    from actstore_extract.replay.reader import Reader, stored
    from actstore_extract.replay.replay import Replay
    from actstore_extract.replay.sample import Branch, Job, Kept, Put, Vectors

__all__ = [
    "METHODS",
    "Asked",
    "Branch",
    "Check",
    "Decoder",
    "Deviation",
    "Estimate",
    "Job",
    "Kept",
    "KnockedOut",
    "Outcome",
    "Pairing",
    "Patched",
    "Put",
    "Reader",
    "Replay",
    "ReplayError",
    "Vectors",
    "chosen",
    "estimate",
    "knocked_out",
    "known_class",
    "load_decoder",
    "method",
    "paired",
    "recorded_decoder",
    "report",
    "stored",
]

# The store alone says whether much of what is asked can be: torch is loaded for what runs.
__getattr__, __dir__ = handed_on(
    __name__,
    __all__,
    "replay",
    Check="check",
    Deviation="check",
    recorded_decoder="checkpoint",
    Estimate="cost",
    estimate="cost",
    report="cost",
    Decoder="decoder",
    load_decoder="decoder",
    ReplayError="errors",
    KnockedOut="knocked",
    knocked_out="knocked",
    Asked="pairing",
    Pairing="pairing",
    chosen="pairing",
    known_class="pairing",
    paired="pairing",
    METHODS="patched",
    Outcome="patched",
    Patched="patched",
    method="patched",
    Reader="reader",
    stored="reader",
    Branch="sample",
    Job="sample",
    Kept="sample",
    Put="sample",
    Vectors="sample",
)
