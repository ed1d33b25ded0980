"""Stores and sae-lens: it trains on what is exported, and actstore sae reads what it trained."""

import json

import numpy as np
import polars as pl
import pytest

import making
from actstore import ActstoreError
from actstore.cli import run
from actstore.export import export
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


def cached(folder, hook, batch=6):
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
        store_batch_size_prompts=batch,
        train_batch_size_tokens=batch,
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
    assert sorted(path.name for path in folder.iterdir()) == ["store", "x.rows.parquet", "x.sae-lens"]
    assert pl.read_parquet(folder / "x.rows.parquet").equals(open_store(folder / "store").sql(QUERY))


def test_a_folder_that_is_there_is_not_written_over(folder):
    with pytest.raises(ActstoreError, match="cannot be written: it exists; remove it, or choose another name"):
        export(open_store(folder / "store"), QUERY, [0], folder / "x.sae-lens")


def test_what_sae_lens_trained_is_measured(folder, capsys):
    from sae_lens import SAE, StandardTrainingSAE, StandardTrainingSAEConfig
    from sae_lens.config import LoggingConfig, SAETrainerConfig
    from sae_lens.training.sae_trainer import SAETrainer

    config = StandardTrainingSAEConfig(d_in=D, d_sae=16, l1_coefficient=0.01)
    training = SAETrainerConfig(
        total_training_samples=6 * 200,
        train_batch_size_samples=6,
        lr=1e-2,
        lr_end=1e-2,
        device="cpu",
        n_checkpoints=0,
        checkpoint_path=None,
        save_final_checkpoint=False,
        logger=LoggingConfig(log_to_wandb=False),
    )
    provider = cached(folder, HOOKS[2]).get_data_loader()
    sae = SAETrainer(training, StandardTrainingSAE(config), provider).fit()
    sae.save_inference_model(folder / "saes" / "layer_2")
    assert run(["sae", str(folder / "store"), "--saes", str(folder / "saes"), "--roles", "image"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (found,) = (row for row in rows if row["control"] == "none")
    assert found["layer"] == 2

    import torch

    x = making.expected(open_store(folder / "store").sql(QUERY), 2)
    loaded = SAE.load_from_disk(folder / "saes" / "layer_2")
    with torch.no_grad():
        again = loaded(torch.from_numpy(x)).numpy()
    fvu = np.square(again - x).sum() / np.square(x - x.mean(0)).sum()
    assert found["fvu"] == pytest.approx(float(fvu), rel=1e-4)
    assert found["fvu"] < 0.5  # it learned
