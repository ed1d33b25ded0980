"""The same function over many units, here or in other processes."""

import pytest

import actstore
from actstore.errors import ActstoreError
from actstore_analyze.work import mapped
from two_sided import dying, make, squared


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_values_in_the_order_of_the_units(store, jobs):
    assert mapped(store, squared, [3, 1, 2], jobs=jobs) == [(3, 9), (3, 1), (3, 4)]
    assert mapped(store, squared, [], jobs=jobs) == []


def test_one_unit_needs_no_process(store):
    assert mapped(store, lambda _, unit: unit, [7], jobs=8) == [7]


def test_a_process_that_dies_is_said(store):
    with pytest.raises(ActstoreError, match="a worker process died.*fewer --jobs"):
        mapped(store, dying, [1, 2], jobs=2)
