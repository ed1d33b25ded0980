"""The promises of a store, tried on the storage that a folder lies on.

>>> outcomes = promises(Path("/mnt/share"))                                    # doctest: +SKIP
>>> assert not [outcome for outcome in outcomes if outcome.result == "broken"] # doctest: +SKIP
"""

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from actstore.storage.urls import checked
from actstore.testing import storage, trials
from actstore.testing.known import BrokenPromiseError
from actstore.testing.storage import UntestableError

Trial = Callable[[Path], Iterator[None]]

TRIALS: tuple[tuple[str, str, Trial, float], ...] = (  # promise, what is tried, how, share of the time
    ("P1", "files, folders and links synced", storage.syncs, 0.04),
    ("P1", "power lost at an instant of a commit", trials.power_loss, 0.12),
    ("P1", "writers killed, then resumed", trials.killed_writers, 0.28),
    ("P2", "reads of a file that is replaced", storage.renames, 0.04),
    ("P2", "reads beside a writer and compactions", trials.readers, 0.12),
    ("P3", "races of links to one name", storage.links, 0.05),
    ("P3", "races of three writers for 12 batches", trials.racing_writers, 0.12),
    ("P3", "locks of a process that is killed", storage.locks, 0.05),
    ("P4", "files damaged", trials.damage, 0.1),
    ("P5", "writes beyond a size limit", trials.size_limits, 0.05),
    ("P5", "writes to a full disk", trials.full_disk, 0.01),
    ("P5", "writes where none is allowed", trials.read_only, 0.01),
    ("P5", "second writers, foreign folders, newer formats", trials.refusals, 0.01),
)


FAR_TRIALS: tuple[tuple[str, str, str, float], ...] = (  # by name: their library is of an extra
    ("P1", "writers killed, then resumed", "killed_writers", 0.4),
    ("P2", "lists right after a write and a removal", "listings", 0.05),
    ("P2", "reads beside a writer", "readers", 0.15),
    ("P3", "races of 16 to create one object", "creates", 0.1),
    ("P3", "races of three writers for 12 batches", "racing_writers", 0.2),
    ("P4", "objects damaged", "damage", 0.1),
    ("P5", "second writers, places without a store", "refusals", 0.0),
)


@dataclass(frozen=True)
class Outcome:
    """How often one thing was tried, and whether the promise was kept; `note` says why it was not."""

    promise: str
    what: str
    tried: int
    result: str
    note: str = ""


def promises(folder: Path, *, seconds: float = 60.0, advance: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Try P1 to P5 in a new folder below `folder`, which is removed afterwards; at least once each."""
    root = Path(tempfile.mkdtemp(prefix="actstore-promises-", dir=folder))
    found = []
    try:
        for number, (promise, what, trial, share) in enumerate(TRIALS):
            own = root / str(number)
            own.mkdir()
            found.append(_outcome(promise, what, trial(own), seconds * share))
            shutil.rmtree(own, ignore_errors=True)
            advance()
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return found


def promises_at(url: str, *, seconds: float = 60.0, advance: Callable[[], None] = lambda: None) -> list[Outcome]:
    """Try P1 to P5 below a URL of object storage, where nothing is left afterwards; at least once each."""
    from actstore.storage import anywhere
    from actstore.testing import far
    from actstore.write import outbox

    root = f"{checked(url)}/actstore-promises-{secrets.token_hex(4)}"
    storage = anywhere.opened(root)
    outbox.check(storage)
    found = []
    with tempfile.TemporaryDirectory(prefix="actstore-") as cache, mock.patch.dict(os.environ, XDG_CACHE_HOME=cache):
        try:
            for number, (promise, what, name, share) in enumerate(FAR_TRIALS):
                found.append(_outcome(promise, what, getattr(far, name)(f"{root}/{number}"), seconds * share))
                advance()
        finally:
            storage.remove(storage.listed(""))
    return found


def _outcome(promise: str, what: str, tries: Iterator[None], seconds: float) -> Outcome:
    tried, end = 0, time.monotonic() + seconds
    try:
        for _ in tries:
            tried += 1
            if time.monotonic() >= end:
                break
    except UntestableError as reason:
        return Outcome(promise, what, tried, "not tried here", str(reason))
    except BrokenPromiseError as broken:
        return Outcome(promise, what, tried + 1, "broken", str(broken))
    except Exception as error:  # whatever else a storage or a library raises is no promise kept
        return Outcome(promise, what, tried + 1, "broken", f"{type(error).__name__}: {error}")
    return Outcome(promise, what, tried, "kept")
