"""Parts, conversations and one whole training, made once: nobody changes what is shared."""

import shutil
from pathlib import Path

import pytest

import trainings
from actstore_extract.training.adapter import learner
from actstore_extract.training.program import train_adapter


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Parts of a tiny model, and twelve conversations."""
    folder = trainings.parts(tmp_path_factory.mktemp("parts"))
    trainings.conversations(folder)
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return Path(shutil.copytree(made, tmp_path / "made"))


@pytest.fixture(scope="session")
def tuned(made):
    return learner(trainings.adapter_recipe(made), trainings.CPU)


@pytest.fixture(scope="session")
def trained(made, tmp_path_factory):
    """A training from beginning to end, and what it said."""
    out, lines = tmp_path_factory.mktemp("trained") / "out", []
    train_adapter(trainings.adapter_recipe(made), out, device="cpu", say=lines.append)
    return out, lines
