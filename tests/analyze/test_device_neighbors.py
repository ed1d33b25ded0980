"""--device of the measures of nearest neighbours: numbers are those of the CPU, bit for bit."""

import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.neighbors import tiles
from actstore_analyze.study import stored
from two_sided import D, make

CALLS = {
    "overlap": {"roles": ["random-text", "eoi"], "k": 5},
    "overlap with another role": {"roles": ["random-text"], "k": 5, "with_role": "random-image", "metric": "cosine"},
    "overlap of groups": {"roles": ["random-image"], "k": 5, "group": "label", "queries": 30},
    "dimension": {"roles": ["random-image"], "center": True},
    "cluster": {"min_size": 5},
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return make(tmp_path_factory.mktemp("two") / "store")


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("asked", CALLS)
def test_tables_are_those_of_the_cpu(path, gpu, monkeypatch, asked, cut):
    store, near, used = actstore.open(path), tiles.Accelerator.near, []
    monkeypatch.setattr(tiles.Accelerator, "near", lambda *given: used.append(1) or near(*given))
    name, options = asked.partition(" ")[0], {**CALLS[asked], "layers": [0, 2], "force": True}
    here = store.measure(name, **options)
    assert not used
    if cut:
        monkeypatch.setattr(stored, "LARGEST", 0)
        monkeypatch.setattr(stored, "BLOCK_BYTES", 50 * D * 4)
    there = store.measure(name, **options, device="cuda")
    assert used
    assert there.table.equals(here.table)
    assert store.results()[0].device == "cuda (Test 1)"
    assert "A GPU, cuda (Test 1), proposed neighbours in float32" in there.methods
    assert "GPU" not in here.methods


def test_hdbscan_is_of_the_cpu(path, gpu, capsys):
    assert run(["cluster", str(path), "--method", "hdbscan", "--device", "cuda"]) == 1
    assert "--device is of density peaks; HDBSCAN is computed on the CPU alone: leave it out" in capsys.readouterr().err
