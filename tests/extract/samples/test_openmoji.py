"""Named pictures: what of Unicode's table is used, how it is split, and that it has to be fetched."""

import pytest

import layouts
from actstore_extract.samples import SOURCES
from actstore_extract.shipped import WeightsError


def table(**keys):
    return SOURCES["openmoji"](source="openmoji", **keys).samples().table


def test_splits_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(WeightsError, match="fetch it with: actstore weights get openmoji"):
        table()
    layouts.openmoji(["1F34C"])
    train, test, whole = table(split="train"), table(split="test"), table()
    assert (train.height, test.height, whole.height) == (1062, 188, 1250)
    assert not {*train["name"]} & {*test["name"]}
    assert whole["name"].is_unique().all()
    assert whole["sample_id"].is_unique().all()
    # the split decides what the shipped map has seen: it may never change
    assert test["name"].tail(3).to_list() == ["white circle", "black medium square", "red triangle pointed down"]
    assert not {"People & Body", "Flags", "Component"} & {*whole["group"]}
    (banana,) = whole.filter(name="banana").iter_rows(named=True)
    assert (banana["sample_id"], banana["label"], banana["subgroup"]) == ("1F34C", "food", "food-fruit")
    assert SOURCES["openmoji"](source="openmoji").samples().image(banana["image"]).size == (9, 7)
