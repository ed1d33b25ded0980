"""The other store of a comparison is the one that the call was made with, in all of its units."""

from concurrent.futures import ThreadPoolExecutor

import polars as pl
import pytest

import actstore
from actstore.errors import ActstoreError
from actstore_analyze.cka.study import Cka
from actstore_analyze.overlap.minus import OverlapMinus
from actstore_analyze.sae.groups import untrained_groups
from actstore_analyze.study.another import another, opened
from labelled import make_store, write_batch

CALLS = {
    "with_store": lambda store, other: Cka.of(store, roles=["eoi"], with_store=other),
    "minus_store": lambda store, other: OverlapMinus.of(store, roles=("eoi",), k=4, minus_store=other),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_store_that_grew_meanwhile_is_refused(tmp_path, name):
    here, there = make_store(tmp_path / "here"), make_store(tmp_path / "there", batches=1)
    store = actstore.open(here)
    call = CALLS[name](store, there)
    assert isinstance(call.table(store, say=print), pl.DataFrame)
    write_batch(actstore.open(there), 1, 40, 20)
    with pytest.raises(ActstoreError, match="there has changed since it was looked at .*; ask again"):
        call.table(store, say=print)


def test_the_store_of_an_untrained_adapter_is_held_to_its_state(tmp_path):
    path = make_store(tmp_path / "untrained")
    with pytest.raises(ActstoreError, match="untrained has changed since it was looked at"):
        untrained_groups(str(path), "of yesterday", [], "from rows")


def test_a_store_that_is_as_it_was_is_opened(tmp_path):
    path = make_store(tmp_path / "there")
    assert another(path, actstore.open(path).state).state == actstore.open(path).state


def test_pieces_of_a_thread_have_it_open_once_and_in_the_state_that_was_asked_of(tmp_path):
    path = make_store(tmp_path / "there", batches=1)
    state = actstore.open(path).state
    first = opened(path, state)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(opened, path, state).result() is not first
    write_batch(actstore.open(path), 1, 40, 20)
    assert opened(path, state) is first
    assert len(first.parts) == 1
    assert len(opened(path, actstore.open(path).state).parts) == 2
    with pytest.raises(ActstoreError, match="there has changed"):
        opened(path, state)
