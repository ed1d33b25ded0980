"""The store of two_sided, one for each file of tests: commands save in it what they measured."""

import pytest

from two_sided import make


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make(tmp_path_factory.mktemp("two") / "store")
