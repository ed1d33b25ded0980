"""A dictionary's definitions: which are kept, and that they have to be fetched."""

import pytest

import layouts
from actstore_extract.pictures import PictureError
from actstore_extract.samples import SOURCES
from actstore_extract.shipped import WeightsError, gcide


def test_the_first_definition_of_each_plain_word(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = SOURCES["gcide"](source="gcide")
    with pytest.raises(WeightsError, match="fetch it with: actstore weights get gcide"):
        source.samples()
    folder = layouts.gcide()
    found = source.samples()
    assert found.table.rows() == [
        ("agree", None, "v. t.", "agree", "To be of one mind, as two who vote for the same thing."),
        ("banana", None, "n.", "banana", "A perennial herbaceous plant of almost treelike size; its edible fruit."),
    ]
    assert found.table.columns == ["sample_id", "image", "label", "word", "definition"]
    with pytest.raises(PictureError, match="definitions have no pictures"):
        found.image("banana")
    assert gcide.seen(folder) == [0.002, 5.5, 62.5, 0.5]
