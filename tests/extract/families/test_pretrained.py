"""What Transformers shows while it loads, in the place of which ours stands."""

import sys

import pytest
from transformers.utils import logging

from actstore_extract.families.pretrained import quiet


@pytest.mark.parametrize("watched", [True, False])
def test_the_bar_of_a_load_is_ours_and_only_where_somebody_watches(monkeypatch, capfd, watched):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: watched)
    monkeypatch.setenv("TERM", "xterm")
    with quiet():
        assert list(logging.tqdm({"a": 1, "b": 2}.items(), desc="Loading weights")) == [("a", 1), ("b", 2)]
    said = capfd.readouterr().err
    assert "Loading" not in said
    assert ("weights" in said and "2/2" in said) == watched
    list(logging.tqdm([1], desc="Loading weights"))
    assert "Loading weights" in capfd.readouterr().err  # what it would be otherwise, as it was before
