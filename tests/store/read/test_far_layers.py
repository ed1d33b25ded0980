"""Several layers of a store at a URL: in how many requests, kept or not, and garbled on their way."""

import numpy as np
import pytest

import actstore
import leading
import making
from actstore.errors import ActstoreError
from actstore.read import mirror
from buckets import Fault
from leading import URL

PARTS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("made") / "s", PARTS)


@pytest.fixture
def served(made, tmp_path, monkeypatch):
    with leading.pushed(monkeypatch, made.path, tmp_path / "cache") as found:
        yield found


def test_all_layers_of_a_part_are_one_request(made, served, monkeypatch):
    """Whether they are kept, where the disk has room for ten of the store, or not: then it is one each time."""
    rows, layers = made.sql("from rows where role = 'image' order by hash(row_id)"), [2, 0, 1, 2]
    truth = made.residual(rows, layers=layers)
    for room, again in ((1e30, PARTS), (0, 0)):
        monkeypatch.setattr(mirror, "ROOM", room)
        monkeypatch.setattr(mirror, "LAYERS_BY_RANGES", 2)
        store = actstore.open(URL)
        store.sql("from rows")
        for requests in (PARTS, again):
            served.took()
            np.testing.assert_array_equal(store.residual(rows, layers=layers), truth)
            taken = served.took()
            assert len(taken) == requests
            assert all(key.endswith("residual/image/c/0/0/0") for _, key in taken)


def test_layers_that_are_not_all_of_a_shard_are_read_by_ranges(made, served):
    store = actstore.open(URL)
    rows = store.sql("from rows where role = 'image'")
    served.took()
    np.testing.assert_array_equal(store.residual(rows, layers=[0, 2]), made.residual(rows, layers=[0, 2]))
    assert len(served.took()) == 2 * PARTS  # its end, and both in one


@pytest.mark.parametrize("kind", ["flip", "cut"])
def test_a_shard_that_is_garbled_on_its_way_is_asked_for_again(made, served, monkeypatch, kind):
    monkeypatch.setattr(mirror, "ROOM", 1e30)
    store = actstore.open(URL)
    rows = store.sql("from rows where role = 'image'")
    served.faults.append(Fault(kind, "GET", "residual/image/c"))
    np.testing.assert_array_equal(store.residual(rows, layers=[0, 1, 2]), made.residual(rows, layers=[0, 1, 2]))
    served.faults.append(Fault(kind, "GET", "residual/image/c", 20))
    with pytest.raises(ActstoreError, match=r"residual/image/c/0/0/0"):
        store.residual(rows, layers=[0, 1, 2])
