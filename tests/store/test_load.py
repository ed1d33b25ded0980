"""One writer and eight readers at once, for long: every reader sees whole batches, and nobody grows."""

import gc
import itertools
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_array_equal

import actstore
import making
from actstore.maintain import compaction, verify
from forked import processes

READERS = 8
SHORT, LONG = 2, 120  # seconds
BATCHES = 40  # of a store; the writer goes on with another one
LEAST = 5  # batches and reads of each, however slow the machine
FILES = 2  # that may be open more at the end than after the first third
STEADY = 4e6  # bytes a minute that a process may grow, after the first third of a long run
GROWN = 64e6  # bytes that a process may grow, after the first third of a short one: a busy machine is not warm by then


def resident():
    """Bytes of memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def handles():
    """Files that this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def _write(folder, seconds, told):
    """Stores one after the other, each written and compacted."""
    gc.freeze()  # what the server has imported
    end, grown = time.monotonic() + seconds, []
    for number in itertools.count():
        batch = number % BATCHES
        if batch == 0:
            store = making.create(folder / f"s{number // BATCHES}", BATCHES)
        store.write(batch, **making.content(batch))
        if batch % 10 == 9:
            list(compaction.compact(store.path))
        gc.collect()
        grown.append((time.monotonic(), resident(), handles()))
        if time.monotonic() > end and number > LEAST:
            break
    told.send((number + 1, grown))


def _read(folder, seconds, told):
    """The newest store again and again: SQL, vectors and attention."""
    gc.freeze()
    end, seen, grown = time.monotonic() + seconds, {}, []
    while time.monotonic() < end or len(grown) < LEAST:
        path = max(folder.glob("s*"), key=lambda path: int(path.name[1:]), default=None)
        if path is None:
            continue
        found = _whole(path)
        assert found >= seen.get(path, 0)  # what was once committed stays
        seen[path] = found
        gc.collect()
        grown.append((time.monotonic(), resident(), handles()))
    told.send((len(grown), grown))


def _whole(path):
    """Every batch of a store is there whole and as it was written; returns how many there are."""
    store = actstore.open(path)
    rows = store.sql("select row_id, role from rows order by row_id")
    place = pl.int_range(pl.len()).over(pl.col("row_id") // 2**32, "role")
    numbered = rows.with_columns(place=place)
    assert set((rows["row_id"] // 2**32).value_counts()["count"]) <= {9}
    assert_array_equal(store.residual(numbered, 1), making.expected(numbered, 1))
    if store.parts:
        assert store.attention("eoi", 2).values.shape[0] == making.SAMPLES * rows.height // 9
    store.close()
    return rows.height // 9


def growth(grown):
    """Bytes a minute, by a line through what was measured after the first third."""
    times, memory, _ = np.array(grown[len(grown) // 3 :], float).T
    return np.polyfit((times - times[0]) / 60, memory, 1)[0]


@pytest.mark.parametrize("seconds", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_a_writer_and_eight_readers(tmp_path, seconds):
    ends, running = [], []
    for target in [_write, *[_read] * READERS]:
        heard, said = multiprocessing.Pipe(duplex=False)
        process = processes.Process(target=target, args=(tmp_path, seconds, said))
        process.start()
        said.close()
        ends.append(heard)
        running.append(process)
    (written, writer_grown), *readers = [heard.recv() for heard in ends]
    for process in running:
        process.join()
        assert process.exitcode == 0
    reads = sum(count for count, _ in readers)
    print(f"{written} batches written, {reads} reads by {READERS} readers in {seconds} s")
    for path in tmp_path.glob("s*"):
        assert verify.run(verify.steps(path)) == []
    for role, grown in [("writer", writer_grown), *[("reader", grown) for _, grown in readers]]:
        early, late = grown[len(grown) // 3], grown[-1]
        assert late[2] <= early[2] + FILES, role
        memory = growth(grown)
        print(f"{role}: {late[1] / 1e6:.0f} MB, {memory / 1e6:+.2f} MB a minute; {early[2]}, then {late[2]} open files")
        assert memory < STEADY if seconds == LONG else late[1] < early[1] + GROWN, role
