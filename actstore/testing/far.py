"""Object storage that a store is to be written to: who is first, what lists say, writers killed and racing, damage.

As in `storage`: a trial yields after each try, and raises BrokenPromiseError when there is one.
"""

import itertools
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path

import actstore
from actstore.errors import ActstoreError, AlreadyCommittedError, NotAStoreError
from actstore.format.names import COMMITS, HEADER, PARTS
from actstore.maintain import pushing, verify
from actstore.storage import anywhere, objects
from actstore.testing import known
from actstore.testing.known import BrokenPromiseError
from actstore.testing.processes import lines, next_line, python

RACERS = 16
BATCHES = 12
KILLS = 8  # of a store
WRITER = ("-m", "actstore.testing.writer", "all")


def _create(url: str, batches: int) -> str:
    """An empty store there."""
    with tempfile.TemporaryDirectory(prefix="actstore-") as folder:
        pushing.push(known.create(Path(folder, "store"), batches).path, url)
    return url


def creates(url: str) -> Iterator[None]:
    """Of many who create one object at once one succeeds, and its bytes stay."""
    storage = anywhere.opened(url)

    def won(number: int) -> bool:
        try:
            storage.create(name, b"%d" % number)
        except objects.PresentError:
            return False
        return True

    for number in itertools.count():
        name = f"raced{number}"
        with ThreadPoolExecutor(RACERS) as pool:
            winners = [racer for racer, first in enumerate(pool.map(won, range(RACERS))) if first]
        if len(winners) != 1 or b"".join(storage.blocks(name, 99)) != b"%d" % winners[0]:
            raise BrokenPromiseError(f"of {RACERS} who created one object at once, {len(winners)} succeeded")
        yield


def listings(url: str) -> Iterator[None]:
    """What was put is listed in its size at once, and what was removed is not."""
    storage = anywhere.opened(url)
    for number in itertools.count():
        name = f"listed/{number}"
        storage.write(name, bytes(number))
        if storage.listed("listed") != {name: number}:
            raise BrokenPromiseError("an object that was put is not listed right after")
        storage.remove([name])
        if storage.listed("listed"):
            raise BrokenPromiseError("an object that was removed is listed")
        yield


def killed_writers(url: str) -> Iterator[None]:
    """A writer killed at any instant loses no batch that it acknowledged, and the next one goes on where it stopped."""
    chance = random.Random(0)  # noqa: S311  (no secret)
    for number in itertools.count():
        place = _create(f"{url}/killed{number}", 100 * KILLS)
        acknowledged: set[int] = set()
        seen: set[int] = set()
        for seed in range(KILLS):
            with python(*WRITER, place, seed) as writer:
                acknowledged.add(int(next_line(writer)))
                time.sleep(chance.uniform(0, 0.5))
                writer.send_signal(signal.SIGKILL)
                acknowledged |= {int(line) for line in lines(writer)}
            found = known.check(place, seen)
            if lost := (acknowledged | seen) - found:
                raise BrokenPromiseError(f"batch {min(lost)} was acknowledged and is not in the store")
            seen = found
            yield


def racing_writers(url: str) -> Iterator[None]:
    """Of three processes that write the same batches, each batch is acknowledged to one."""
    for number in itertools.count():
        place = _create(f"{url}/raced{number}", BATCHES)
        with ExitStack() as running:
            writers = [running.enter_context(python(*WRITER, place, number)) for _ in range(3)]
            won = sorted(int(line) for writer in writers for line in lines(writer))
        if won != [*range(BATCHES)] or known.check(place) != {*range(BATCHES)}:
            raise BrokenPromiseError(f"{BATCHES} batches were raced for, these were acknowledged: {won}")
        yield


def readers(url: str) -> Iterator[None]:
    """Beside a writer a reader finds whole batches, none of which ever vanishes."""
    for number in itertools.count():
        place, seen = _create(f"{url}/read{number}", BATCHES), set[int]()
        with python(*WRITER, place, number) as writer:
            next_line(writer)
            while len(seen) < BATCHES:
                running = writer.poll() is None
                found = known.check(place, seen)
                if not found >= seen or (len(found) < BATCHES and not running):
                    raise BrokenPromiseError(
                        f"{len(found)} batches were found, after {len(seen)}; {BATCHES} were written"
                    )
                seen = found
                yield


def damage(url: str) -> Iterator[None]:
    """An object with a flipped bit, cut short, or gone is found by verify and never returned as data."""
    place, chance = _create(f"{url}/damaged", 2), random.Random(0)  # noqa: S311  (no secret)
    known.write(actstore.open(place), 0, 1)
    storage = anywhere.opened(place)
    names = sorted(storage.listed(PARTS) | storage.listed(COMMITS))
    for _ in itertools.count():
        name = chance.choice(names)
        content = b"".join(storage.blocks(name, 2**30))
        where = chance.randrange(len(content))
        harmed = [content[:where], content[:where] + bytes([content[where] ^ 1]) + content[where + 1 :]]
        if name.startswith(PARTS) and chance.random() < 0.3:
            storage.remove([name])
        else:
            storage.write(name, chance.choice(harmed))
        if not _is_found(place):
            raise BrokenPromiseError(f"{name} was harmed, and verify found nothing")
        with suppress(ActstoreError):
            known.check(place)
        storage.write(name, content)
        yield


def _is_found(place: str) -> bool:
    try:
        return bool(verify.run(verify.steps_at(actstore.open(place))))
    except ActstoreError:
        return True


def refusals(url: str) -> Iterator[None]:
    """A batch that is committed, and a place without a store, are refused by name."""
    place = _create(f"{url}/refused", 2)
    known.write(actstore.open(place), 0)
    for _ in itertools.count():
        _must_raise(AlreadyCommittedError, lambda: known.write(actstore.open(place), 0))
        _must_raise(NotAStoreError, lambda: actstore.open(f"{url}/none"))
        _must_raise(objects.PresentError, lambda: anywhere.opened(place).create(HEADER, b"{}"))
        yield


def _must_raise(kind: type[Exception], call: object) -> None:
    assert callable(call)
    with suppress(kind):
        call()
        raise BrokenPromiseError(f"{kind.__name__} was not raised")
