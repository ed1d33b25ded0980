"""A store against a dictionary: whatever is done in whatever order, both hold the same."""

import contextlib
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from numpy.testing import assert_array_equal

import actstore
import making
from actstore import AlreadyCommittedError
from actstore.format import commits
from actstore.maintain import compaction, orphans, verify
from actstore.storage import local

BATCHES = 5
STEPS = ("sync", "sync_tree", "publish", "crc32c")  # of a commit, where a writer may die


class Died(BaseException):
    """A writer that is killed runs no handler."""


class Stores(RuleBasedStateMachine):
    """Writes, dies, resumes, compacts, collects and reads."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        making.create(self.folder / "s", BATCHES)
        self.model = {}  # batch -> rows
        self.readers = []  # stores that stay open, with what they saw

    @property
    def path(self):
        return self.folder / "s"

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(batch=st.integers(0, BATCHES - 1))
    def write(self, batch):
        try:
            actstore.open(self.path).write(batch, **making.content(batch))
            assert batch not in self.model
        except AlreadyCommittedError:
            assert batch in self.model
        self.model[batch] = 9

    @rule(batch=st.integers(0, BATCHES - 1), step=st.sampled_from(STEPS), calls=st.integers(0, 12))
    def die(self, batch, step, calls):
        self._dying(step, calls, lambda: actstore.open(self.path).write(batch, **making.content(batch)))
        if commits.is_committed(self.path, batch):  # it died after the link: committed, although nobody was told
            self.model[batch] = 9

    @rule(step=st.sampled_from(STEPS), calls=st.integers(0, 12))
    def die_compacting(self, step, calls):
        self._dying(step, calls, lambda: list(compaction.compact(self.path)))

    @rule()
    def compact(self):
        list(compaction.compact(self.path))
        assert len(commits.load_all(self.path, actstore.open(self.path).header.crc32c)) == bool(self.model)

    @rule()
    def resume(self):
        store = actstore.open(self.path)
        assert set(store.remaining) == set(range(BATCHES)) - self.model.keys()
        for batch in store.remaining[:2]:
            store.write(batch, **making.content(batch))
            self.model[batch] = 9

    @rule(hours=st.sampled_from([0, 24]))
    def gc(self, hours):
        for orphan in orphans.find(self.path, older_than=hours):
            assert orphans.remove(orphan)

    @rule()
    def a_day_passes(self):
        """Readers of yesterday have finished."""
        self.readers.clear()
        long_ago = (datetime.now(UTC) - timedelta(hours=25)).isoformat()
        for record in (self.path / "commits").glob("c*.json"):
            making.change(record, written=long_ago)

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def open(self):
        self.readers.append((actstore.open(self.path), dict(self.model)))

    @rule()
    def verify(self):
        assert verify.run(verify.steps(self.path)) == []

    @invariant()
    def everyone_reads_what_was_committed(self):
        for store, model in [*self.readers, (actstore.open(self.path), self.model)]:
            rows = pl.concat([part.rows() for part in store.parts]) if store.parts else pl.DataFrame()
            counts = dict((rows["row_id"] // 2**32).value_counts().rows()) if store.parts else {}
            assert counts == model
            if model:
                place = pl.int_range(pl.len()).over(pl.col("row_id") // 2**32, "role")
                numbered = rows.sort("row_id").with_columns(place=place)
                assert_array_equal(store.residual(numbered, 1), making.expected(numbered, 1))

    def _dying(self, step, calls, work):
        """Run what dies at some call of one of its steps; like a dead process it removes nothing and holds no lock."""
        original, left = getattr(local, step), [calls]

        def dying(*arguments):
            if not left[0]:
                raise Died
            left[0] -= 1
            return original(*arguments)

        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Died, AlreadyCommittedError):
            patch.setattr(local, step, dying)
            patch.setattr(shutil, "rmtree", lambda *_, **__: None)
            work()


def _run(examples, steps):
    run_state_machine_as_test(
        Stores,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_store_is_a_dictionary():
    _run(6, 12)


@pytest.mark.slow
def test_a_store_is_a_dictionary_for_long():
    _run(60, 25)


def test_a_writer_that_dies_leaves_its_part():
    """The machine above would prove little if its writers never died."""
    stores = Stores()
    stores.die(0, "publish", 0)
    assert len(list((stores.path / "parts").iterdir())) == 1
    assert list((stores.path / "commits").iterdir()) == []
    assert stores.model == {}
    stores.gc(0)
    assert list((stores.path / "parts").iterdir()) == []
    stores.teardown()
