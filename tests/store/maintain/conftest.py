"""A store with a file of each kind, and a copy of it to damage."""

import shutil

import pytest

from damaging import everything


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("stores") / "original", 3)


@pytest.fixture
def path(original, tmp_path):
    return shutil.copytree(original, tmp_path / "s")
