"""Stores and sae-lens: it trains on what is exported, and actstore sae reads what it trained."""

import json
import re
from importlib.resources import files

import numpy as np
import polars as pl
import pytest

import making
from actstore import ActstoreError
from actstore.commands.export import export
from actstore.commands.main import run
from actstore.store import open as open_store

pytestmark = pytest.mark.filterwarnings("ignore")  # sae-lens imports what transformer-lens calls deprecated

QUERY = "select row_id, role, token_id, place from rows where role = 'image' order by row_id"
HOOKS = {0: "blocks.0.hook_resid_pre", 2: "blocks.1.hook_resid_post"}
D = 8


@pytest.fixture
def folder(tmp_path):
    """A small store, and two of its layers exported."""
    store = making.store(tmp_path / "store")
    assert export(store, QUERY, list(HOOKS), tmp_path / "x.sae-lens")[0] == tmp_path / "x.sae-lens"
    return tmp_path


def cached(folder, hook):
    """The activations as sae-lens reads them: no model, no data set of texts."""
    import torch
    from sae_lens.training.activations_store import ActivationsStore

    return ActivationsStore(
        model=None,
        dataset=None,
        streaming=False,
        hook_name=hook,
        hook_head_index=None,
        context_size=1,
        d_in=D,
        n_batches_in_buffer=18,
        total_training_tokens=10_000,
        store_batch_size_prompts=6,
        train_batch_size_tokens=6,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(folder / "x.sae-lens"),
    )


@pytest.mark.parametrize("layer", HOOKS)
def test_sae_lens_reads_each_row_once(folder, layer):
    rows = open_store(folder / "store").sql(QUERY)
    read = cached(folder, HOOKS[layer])
    batches = [read.get_raw_llm_batch() for _ in range(rows.height // 6)]
    assert np.array_equal(np.concatenate([x.numpy() for x, _ in batches]), making.expected(rows, layer))
    ids = np.concatenate([ids.numpy() for _, ids in batches]).astype(int)
    assert ids.tolist() == rows["token_id"].fill_null(-1).to_list()
    with pytest.raises(StopIteration):
        read.get_raw_llm_batch(raise_on_epoch_end=True)


def test_the_rows_lie_beside_and_nothing_else(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["store", "x.sae-lens", "x.sae-lens.rows.parquet"]
    assert pl.read_parquet(folder / "x.sae-lens.rows.parquet").equals(open_store(folder / "store").sql(QUERY))


def test_a_folder_that_is_there_is_not_written_over(folder):
    with pytest.raises(ActstoreError, match="x.sae-lens: it exists; remove it, or choose another name"):
        export(open_store(folder / "store"), QUERY, [0], folder / "x.sae-lens")


def test_what_sae_lens_trained_on_the_demo_is_measured(tmp_path, capsys, monkeypatch):
    """From the store of a model that ships, through sae-lens' own trainer as the page shows it, and back."""
    import torch
    from sae_lens import SAE

    monkeypatch.chdir(tmp_path)
    few = ["--set", "samples.limit=64", "--set", 'capture.roles=["text"]']
    assert run(["extract", "digits-mapped", "store", *few]) == 0
    assert run(["export", "store", "from rows", "--layer", "4", "-o", "text.sae-lens"]) == 0
    page = (files("actstore_analyze") / "PAPERS.md").read_text(encoding="utf-8")
    (training,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(training, {})
    capsys.readouterr()
    assert run(["sae", "store", "--saes", "saes", "--roles", "text", "--average", "token"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = (row for row in rows if row["control"] == "none" and row["prompt_order"] == "image-text")
    opened = open_store("store")
    query = "from rows where prompt_order = 'image-text'"
    assert (found["layer"], found["n"]) == (4, opened.sql(query).height)

    loaded = SAE.load_from_disk("saes/layer_4")
    x = opened.residual(opened.sql(query), layer=4)
    with torch.no_grad():
        again = loaded(torch.from_numpy(x)).numpy()
    fvu = np.square(again - x).sum() / np.square(x - x.mean(0)).sum()
    assert found["fvu"] == pytest.approx(float(fvu), rel=1e-4)
    assert found["fvu"] < 0.2  # it learned
