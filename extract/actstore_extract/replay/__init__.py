"""Replays: a model's forward gone on with from stored residual streams, without images, vision tower or GPU."""

from actstore_extract.replay.check import Check, Deviation
from actstore_extract.replay.checkpoint import recorded_decoder
from actstore_extract.replay.cost import Estimate, estimate, report
from actstore_extract.replay.decoder import Decoder, load_decoder
from actstore_extract.replay.knocked import KnockedOut, knocked_out
from actstore_extract.replay.pairing import Asked, Pairing, chosen, known_class, paired
from actstore_extract.replay.patched import METHODS, Outcome, Patched, method
from actstore_extract.replay.reader import Reader, stored
from actstore_extract.replay.replay import Replay
from actstore_extract.replay.sample import Branch, Job, Kept, Put, Vectors
from actstore_extract.replay.steps import ReplayError

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
