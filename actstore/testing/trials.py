"""A store on the storage at hand: writers killed and racing, readers beside them, damage, and disks that refuse.

As in `storage`: a trial yields after each try, and raises BrokenPromiseError when there is one.
"""

import itertools
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest import mock

import polars as pl

import actstore
from actstore import ActstoreError, AlreadyCommittedError, FormatError, NotAStoreError
from actstore.format.names import COMMITS, HEADER, PARTS
from actstore.maintain import compaction, orphans, verify
from actstore.testing import known
from actstore.testing.disk import Disk, restore
from actstore.testing.known import BrokenPromiseError
from actstore.testing.processes import Process, lines, next_line, python, tell
from actstore.testing.storage import UntestableError
from actstore.write.drafts import Draft

WRITE_ALL = ("-m", "actstore.testing.writer", "all")
KILLS_PER_STORE = 10  # then all of it is verified
SMALL = 2**28  # bytes: a disk with less room is filled
LIMITS = (0, 100, 1000, 2000, 4000)  # bytes that a file may have


def power_loss(folder: Path) -> Iterator[None]:
    """What a power loss at each instant of a commit could leave holds all that was acknowledged."""
    root = folder / "disk"
    root.mkdir()
    store = known.create(root / "s", 2)
    with Disk(root) as disk:
        for batch in (0, 1):
            known.write(store, batch)
            disk.acknowledge(batch)
    for number, state in enumerate(disk.states):
        left = folder / f"left{number}"
        restore(state.tree, left)
        if not known.check(left / "s") >= set(state.acknowledged):
            raise BrokenPromiseError(f"power lost {state.instant}: an acknowledged batch is gone")
        shutil.rmtree(left)
        yield


def killed_writers(folder: Path) -> Iterator[None]:
    """A writer killed at any instant loses no batch that it acknowledged, and the next one goes on where it stopped."""
    with python("-m", "actstore.testing.writer", "serve") as server:
        for number in itertools.count():
            yield from _killed_in(known.create(folder / f"killed{number}", 100 * KILLS_PER_STORE).path, server)


def _killed_in(path: Path, server: Process) -> Iterator[None]:
    chance = random.Random(path.name)  # noqa: S311  (no secret)
    acknowledged: set[int] = set()
    seen: set[int] = set()
    for seed in range(KILLS_PER_STORE):
        acknowledged |= _killed(server, path, seed, chance.uniform(0, 0.1))
        found = known.check(path, seen)
        if lost := (acknowledged | seen) - found:
            raise BrokenPromiseError(f"batch {min(lost)} was acknowledged and is not in the store")
        seen = found
        yield
    _finish(path)


def _killed(server: Process, path: Path, seed: int, seconds: float) -> set[int]:
    """The batches that a writer acknowledged before it was killed, some time after the first."""
    tell(server, f"{path}\t{seed}")
    pid, said = 0, set[int]()
    while not (pid and said):
        match next_line(server).split():
            case ["pid", number]:
                pid = int(number)
            case ["gone"]:
                raise BrokenPromiseError("a writer that nobody killed has ended")
            case [batch]:
                said.add(int(batch))
    time.sleep(seconds)
    with suppress(ProcessLookupError):  # it has written all there was
        os.kill(pid, signal.SIGKILL)
    while (line := next_line(server)) != "gone":
        said.add(int(line))
    return said


def _finish(path: Path) -> None:
    """Nothing is damaged, and what dead writers left can be removed."""
    for orphan in orphans.find(path, older_than=0):
        orphans.remove(orphan)
    _check_clean(path)
    if len(list((path / PARTS).iterdir())) != len(list((path / COMMITS).iterdir())):
        raise BrokenPromiseError("there are parts without a record, or records without a part")


def _check_clean(path: Path) -> None:
    if problems := verify.run(verify.steps(path)):
        raise BrokenPromiseError(f"{problems[0].file}: {problems[0].problem}")


def racing_writers(folder: Path) -> Iterator[None]:
    """Of three processes that write the same batches, each batch is acknowledged to one."""
    for number in itertools.count():
        path = known.create(folder / f"raced{number}", 12).path
        with ExitStack() as running:
            writers = [running.enter_context(python(*WRITE_ALL, path, number)) for _ in range(3)]
            won = sorted(int(line) for writer in writers for line in lines(writer))
        if won != list(range(12)) or known.check(path) != set(range(12)):
            raise BrokenPromiseError(f"12 batches were raced for, these were acknowledged: {won}")
        _finish(path)
        yield


def readers(folder: Path) -> Iterator[None]:
    """Beside a writer and compactions a reader finds whole batches, none of which ever vanishes."""
    for number in itertools.count():
        path = known.create(folder / f"read{number}", 60).path
        seen: set[int] = set()
        with python(*WRITE_ALL, path, number) as writer:
            next_line(writer)
            while len(seen) < 60:
                running = writer.poll() is None
                found = known.check(path, seen)
                if not found >= seen or (len(found) < 60 and not running):
                    raise BrokenPromiseError(f"{len(found)} batches were found, after {len(seen)}; 60 were written")
                seen = found
                yield
                if len(seen) % 5 == 0:
                    next(compaction.compact(path), None)


def damage(folder: Path) -> Iterator[None]:
    """A flipped bit, a file cut short, emptied or gone is found by verify and never returned as data."""
    store = known.create(folder / "damaged", 2)
    known.write(store, 0, 1)
    files = sorted(file for file in store.path.rglob("*") if file.is_file() and file.name != HEADER)
    chance = random.Random(0)  # noqa: S311  (no secret)
    for _ in itertools.count():
        file = chance.choice(files)
        content = file.read_bytes()
        how = chance.choice(["flipped", "flipped", "cut", "emptied", "gone"])
        if how == "gone" and file.parent.name != COMMITS:  # a batch without a record is one that was never written
            file.unlink()
        else:
            file.write_bytes(_damaged(content, how, chance))
        name = file.relative_to(store.path)
        if not verify.run(verify.steps(store.path)):
            raise BrokenPromiseError(f"{name} was {how}, and verify found nothing")
        with suppress(ActstoreError):
            known.check(store.path)
        file.write_bytes(content)
        yield


def _damaged(content: bytes, how: str, chance: random.Random) -> bytes:
    if how == "cut":
        return content[: chance.randrange(len(content))]
    if how == "emptied":
        return b""
    where = chance.randrange(len(content))
    return content[:where] + bytes([content[where] ^ 1 << chance.randrange(8)]) + content[where + 1 :]


def _contents(path: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def size_limits(folder: Path) -> Iterator[None]:
    """A write that the system stops in the middle is an error, and leaves the store as it was."""
    store = known.create(folder / "limited", 2)
    known.write(store, 0)
    before = _contents(store.path)
    for limit in itertools.cycle(LIMITS):
        with python("-m", "actstore.testing.writer", "within", store.path, limit) as writer:
            status = writer.wait()
        if status != known.REFUSED or _contents(store.path) != before:
            raise BrokenPromiseError(f"a writer that may write {limit} bytes ended with {status}, or harmed the store")
        yield


def full_disk(folder: Path) -> Iterator[None]:
    """A full disk is an error, and leaves the store as it was."""
    if (free := shutil.disk_usage(folder).free) > SMALL:
        raise UntestableError(f"{free / 1e9:.1f} GB are free; on less than {SMALL / 1e9:.1f} GB the disk is filled")
    store = known.create(folder / "full", 2)
    with mock.patch.object(Draft, "_check_space"):  # it would refuse before the disk does
        known.write(store, 0)
        before = _contents(store.path)
        for spare in itertools.cycle((0, 2, 4, 8, 16)):
            filler = folder / "filler"
            filler.write_bytes(bytes(max(0, shutil.disk_usage(folder).free - spare * 1024)))
            with suppress(ActstoreError):
                known.write(store, 1)
                raise BrokenPromiseError(f"with {spare} kB left, a batch was acknowledged")
            filler.unlink()
            if _contents(store.path) != before:
                raise BrokenPromiseError("a full disk changed what was committed")
            yield


def read_only(folder: Path) -> Iterator[None]:
    """What may not be written can be read, and a write is an error."""
    store = known.create(folder / "readonly", 2)
    known.write(store, 0)
    folders = [path for path in [store.path, *store.path.rglob("*")] if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    try:
        if _may_write(store.path / PARTS):
            raise UntestableError("this user may write everywhere")
        for _ in itertools.count():
            if known.check(store.path) != {0}:
                raise BrokenPromiseError("a store that may not be written cannot be read")
            with suppress(ActstoreError):
                known.write(store, 1)
                raise BrokenPromiseError("a store that may not be written was written")
            yield
    finally:
        for path in folders:
            path.chmod(0o755)


def _may_write(folder: Path) -> bool:
    try:
        (folder / "probe").touch()
    except OSError:
        return False
    (folder / "probe").unlink()
    return True


def refusals(folder: Path) -> Iterator[None]:
    """A batch that is committed, a folder that is no store and a newer format are refused by name."""
    store = known.create(folder / "refused", 2)
    known.write(store, 0)
    (folder / "none").mkdir()
    newer = folder / "newer"
    newer.mkdir()
    (newer / HEADER).write_text('{"format":3}')
    for _ in itertools.count():
        _must_raise(AlreadyCommittedError, lambda: known.write(actstore.open(store.path), 0))
        _must_raise(NotAStoreError, lambda: actstore.open(folder / "none"))
        _must_raise(FormatError, lambda: actstore.open(newer))
        _must_raise(ActstoreError, lambda: actstore.create(store.path, plan=_plan(), layers=[0], d_model=1))
        yield


def _plan() -> pl.DataFrame:
    return pl.DataFrame({"sample_id": ["a"]})


def _must_raise(kind: type[Exception], call: Callable[[], object]) -> None:
    with suppress(kind):
        call()
        raise BrokenPromiseError(f"{kind.__name__} was not raised")
