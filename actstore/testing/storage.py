"""What the format asks of a file system: links that never replace, whole renames, syncs, locks that are let go of.

Each trial goes on for as long as it is asked: it yields after each try, and raises BrokenPromiseError at the first.
"""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from actstore.storage import local
from actstore.testing.known import BrokenPromiseError
from actstore.testing.processes import next_line, python
from actstore.write import drafts

RACERS = 4

HOLD = """
import fcntl, os, sys
try:
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
    print("held", flush=True)
except OSError as error:
    print(error, flush=True)
sys.stdin.read()
"""


class UntestableError(Exception):
    """What cannot be tried here, and why."""


def syncs(folder: Path) -> Iterator[None]:
    """Files, folders and links can be synced. Whether the disk then keeps them, only a pulled plug can tell."""
    for number in itertools.count():
        below = folder / f"sync{number}" / "a" / "b"
        below.mkdir(parents=True)
        (below / "file").write_bytes(b"content")
        local.sync_tree(below.parents[1])
        local.publish(folder / f"published{number}", b"content")
        if (folder / f"published{number}").read_bytes() != b"content":
            raise BrokenPromiseError("a file that was synced and linked has other bytes")
        yield


def links(folder: Path) -> Iterator[None]:
    """Of several who link to one name at once one succeeds, and the name keeps what that one linked to it."""
    with ThreadPoolExecutor(RACERS) as pool:
        for number in itertools.count():
            name = folder / f"link{number}"
            sources = [folder / f"source{number}-{racer}" for racer in range(RACERS)]
            for racer, source in enumerate(sources):
                source.write_bytes(bytes([racer]) * 4096)
            won = [racer for racer, done in enumerate(pool.map(_link, sources, itertools.repeat(name))) if done]
            if len(won) != 1 or _link(sources[0], name):
                raise BrokenPromiseError("a link replaced what had its name: of two who commit a batch, one is lost")
            if name.read_bytes() != bytes([won[0]]) * 4096:
                raise BrokenPromiseError("a name does not hold what was linked to it")
            if name.name not in os.listdir(folder):  # noqa: PTH208  (as commits are listed)
                raise BrokenPromiseError("a name that was just made is not listed")
            yield


def _link(source: Path, name: Path) -> bool:
    try:
        os.link(source, name)
    except FileExistsError:
        return False
    except OSError as error:
        raise BrokenPromiseError(f"no hard links here ({error.strerror}): no batch can be committed") from error
    return True


def renames(folder: Path) -> Iterator[None]:
    """A name that is given to another file holds the old one or the new one whole, at every instant."""
    name, whole = folder / "renamed", {bytes([version]) * (50_000 + 30_000 * version) for version in range(3)}
    name.write_bytes(min(whole))

    def replace(content: bytes) -> None:
        draft = local.draft_of(name)
        draft.write_bytes(content)
        draft.replace(name)

    with ThreadPoolExecutor(1) as pool:
        while True:
            replaced = [pool.submit(replace, content) for content in whole]
            while not all(one.done() for one in replaced):
                _check_whole(name, whole)
                yield
            for one in replaced:
                one.result()


def _check_whole(name: Path, whole: set[bytes]) -> None:
    try:
        if name.read_bytes() not in whole:
            raise BrokenPromiseError("a file that is replaced by rename was seen in part")
    except FileNotFoundError:
        raise BrokenPromiseError("a file that is replaced by rename was not there for a moment") from None


def locks(folder: Path) -> Iterator[None]:
    """A folder that a process has locked cannot be locked by another one, until that process is gone."""
    for _ in itertools.count():
        with python("-c", HOLD, folder) as holder:
            said = next_line(holder)
            held = said == "held" and drafts.is_live(folder)
        if said != "held":
            raise UntestableError(f"no locks here ({said}): gc goes by the age of what is left behind")
        if not held:
            raise BrokenPromiseError("two processes had one lock: gc would take a part from the one who writes it")
        if drafts.is_live(folder):
            raise BrokenPromiseError("the lock of a killed process is still held: what it left behind stays for ever")
        yield
