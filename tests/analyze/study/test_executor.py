"""The same function over many units, here or in other processes."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import actstore
import making
from actstore.errors import ActstoreError
from actstore_analyze.study.executor import mapped
from two_sided import committed, dying, make, squared


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return actstore.open(make(tmp_path_factory.mktemp("two") / "store"))


@pytest.mark.parametrize("jobs", [1, 2])
def test_values_in_the_order_of_the_units(store, jobs):
    assert mapped(store, squared, [3, 1, 2], jobs=jobs) == [(3, 9), (3, 1), (3, 4)]
    assert mapped(store, squared, [], jobs=jobs) == []


def test_one_unit_needs_no_process(store):
    assert mapped(store, lambda _, unit: unit, [7], jobs=8) == [7]


def test_another_executor_gives_the_same_and_sees_a_store_that_has_grown(tmp_path):
    grown = making.create(tmp_path / "s", 2)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        for number in range(2):
            grown.write(number, **making.content(number))
            opened = actstore.open(grown.path)
            assert mapped(opened, committed, [1, 2], executor=pool) == [(number + 1, 1), (number + 1, 2)]
        assert mapped(opened, committed, [], executor=pool) == []


def test_a_process_that_dies_is_said(store):
    with pytest.raises(ActstoreError, match="a worker process died.*fewer --jobs"):
        mapped(store, dying, [1, 2], jobs=2)
