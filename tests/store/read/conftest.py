"""A store of three parts, and what answers at a URL with a copy of it."""

import polars as pl
import pytest

import actstore
import leading
import making


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    store = making.store(tmp_path_factory.mktemp("made") / "s", 3)
    store.save_result("count", pl.DataFrame({"n": [1, 2]}), {"k": 1})
    return actstore.open(store.path)


@pytest.fixture
def served(made, tmp_path, monkeypatch):
    with leading.pushed(monkeypatch, made.path, tmp_path / "cache") as found:
        yield found
