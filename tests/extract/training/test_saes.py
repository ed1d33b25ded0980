"""actstore train sae, on the store of a tiny language model: what is learned, kept and scored."""

import json
from itertools import pairwise, product

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

import actstore
import speakers
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_extract.training.saes.recovered import losses

SAE = pytest.importorskip("sae_lens").SAE
pytestmark = pytest.mark.filterwarnings("ignore")  # sae-lens imports what transformer-lens calls deprecated

FEW = ["--features", "32", "-k", "4", "--steps", "60", "--batch-size", "64", "--held-out", "0.2", "--device", "cpu"]
WORDS = ("this", "animal", "is", "dog", "cat", "dogs", "and")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return speakers.save(tmp_path_factory.mktemp("saes") / "lm")


@pytest.fixture(scope="module")
def store(model):
    """49 prompts of four words each."""
    folder = model.parent
    prompts = [f"{a} {b} {a} {b}" for a, b in product(WORDS, WORDS)]
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"prompt": one}) for one in prompts))
    (folder / "r.toml").write_text(
        f"[model]\npath = '{model}'\ndtype = 'float32'\n[samples]\nsource = 'table'\npath = '{folder}/t.jsonl'\n"
        "[capture]\nroles = ['text', 'last']\n"
    )
    assert run(["extract", str(folder / "r.toml"), str(folder / "s"), "--device", "cpu"]) == 0
    return folder / "s"


def trained(capsys, store, out, *words, status=0):
    """The table, by layer, and what was said."""
    assert run(["train", "sae", str(store), str(out), *FEW, *words, "--format", "jsonl"]) == status
    out, err = capsys.readouterr()
    return {row["layer"]: row for row in map(json.loads, out.splitlines())}, err


@pytest.fixture(scope="module")
def made(store):
    """Autoencoders of both layers."""
    assert run(["train", "sae", str(store), str(store.parent / "saes"), *FEW]) == 0
    return store.parent / "saes"


def held_out(store, made, layer):
    """Scores of a layer, and the vectors and samples that they are of."""
    kept = json.loads((made / f"layer_{layer}" / "training.json").read_text())["scores"]
    opened = actstore.open(store)
    rows = opened.sql("from rows where role = 'text' order by row_id")
    return kept, opened, rows


def test_the_scores_are_those_of_what_is_kept(store, made, capsys):
    table, err = trained(capsys, store, made)
    assert "layer" not in err  # all are there: nothing is trained again
    assert sorted(table) == [0, 1]
    for layer, row in table.items():
        kept, opened, rows = held_out(store, made, layer)
        assert {key: row[key] for key in ("fvu", "recovered", "l0")} == {k: kept[k] for k in ("fvu", "recovered", "l0")}
        config = json.loads((made / f"layer_{layer}" / "cfg.json").read_text())
        hook = "blocks.0.hook_resid_post" if layer else "blocks.0.hook_resid_pre"
        assert (config["metadata"]["hook_name"], config["architecture"]) == (hook, "jumprelu")
        sae = SAE.load_from_disk(str(made / f"layer_{layer}"), dtype="float32")
        x = opened.residual(rows.filter(pl.col("sample_id").is_in(_held(opened, rows))), layer)
        with torch.no_grad():
            off = sae(torch.from_numpy(x)).numpy() - x
            active = (sae.encode(torch.from_numpy(x)) > 0).sum(1).float().mean().item()
        assert row["fvu"] == pytest.approx(np.square(off).sum() / np.square(x - x.mean(0)).sum(), rel=1e-4)
        assert (row["l0"], row["held_out"]) == (pytest.approx(active), len(x))
        assert row["fvu"] < 0.6
        assert row["vectors"] + row["held_out"] == rows.height
        assert 2 < row["l0"] < 8
        assert 0 <= row["dead"] < 1
        assert row["massive_dims"] == ""
        assert row["fvu"] == row["fvu_without_massive"]


def test_recovered_against_transformers_alone(store, made, model):
    """The losses of the held-out samples, from Transformers with a hook of its own."""
    layer = 1
    kept, opened, rows = held_out(store, made, layer)
    lm, words = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    sae = SAE.load_from_disk(str(made / "layer_1"), dtype="float32")
    held = _held(opened, rows)
    mean = opened.residual(rows.filter(~pl.col("sample_id").is_in(held)), layer).mean(0)
    ways = {
        "loss": lambda x: x,
        "loss_rebuilt": sae,
        "loss_zeroed": torch.zeros_like,
        "loss_mean": lambda x: torch.from_numpy(mean).expand_as(x),
    }
    for name, put in ways.items():
        hook = lm.model.norm.register_forward_pre_hook(lambda _, args, put=put: (put(args[0]),))
        found = []
        for prompt in opened.sql("from samples").filter(pl.col("sample_id").is_in(held))["prompt"]:
            ids = words(prompt, return_tensors="pt").input_ids
            with torch.no_grad():
                found += cross_entropy(lm(ids).logits[0, :-1], ids[0, 1:], reduction="none").tolist()
        hook.remove()
        assert kept[name] == pytest.approx(np.mean(found), rel=1e-4), name
        assert kept["tokens"] == len(found)
    lost = kept["loss_zeroed"] - kept["loss"]
    assert kept["recovered"] == pytest.approx((kept["loss_zeroed"] - kept["loss_rebuilt"]) / lost)
    assert kept["recovered"] > 0.5


def _held(opened, rows):
    """The samples that are held out: the first of the draw."""
    from actstore_extract.samples.source import drawn

    names = drawn(rows["sample_id"].unique(), seed=0)
    return names[: round(0.2 * len(names))]


def test_what_is_learned_is_the_same_again(store, made, tmp_path, capsys):
    table, err = trained(capsys, store, tmp_path / "again", "--layers", "1")
    assert "layer 1: FVU" in err
    one, other = (folder / "layer_1" / "sae_weights.safetensors" for folder in (made, tmp_path / "again"))
    assert one.read_bytes() == other.read_bytes()
    assert table[1]["recovered"] == held_out(store, made, 1)[0]["recovered"]


def test_dimensions_of_any_scale_weigh_the_same(tmp_path):
    """A dimension a thousand times as long, far from 0, is rebuilt as well as without that, and so are the others."""
    from actstore_extract.training.saes.autoencoder import Settings, fit, loaded, save
    from actstore_extract.training.saes.scores import rebuilt, standard

    torch.manual_seed(0)
    x = torch.randn(2000, 6) @ torch.randn(6, 12)
    factor = torch.ones(12)
    factor[3] = 1000.0
    found = []
    for number, own in enumerate((x, x * factor + 500 * (factor > 1))):
        mean, spread = standard(own)
        torch.manual_seed(0)
        how = Settings(features=24, k=6, steps=80, batch_size=128)
        sae = fit((own - mean) / spread, how, torch.Generator().manual_seed(0))
        sae.fold_activation_whitening(mean, torch.diag(1 / spread), torch.diag(spread))
        save(sae, tmp_path / str(number))
        found.append(rebuilt(loaded(tmp_path / str(number), torch.device("cpu")), own))
    plain, scaled = found
    assert (plain["massive_dims"], scaled["massive_dims"]) == ("", "3")
    assert scaled["l0"] == pytest.approx(plain["l0"], rel=0.02)
    without = [dim for dim in range(12) if dim != 3]
    sae = loaded(tmp_path / "0", torch.device("cpu"))
    with torch.no_grad():
        off = (sae(x) - x)[:, without].square().sum() / (x - x.mean(0))[:, without].square().sum()
    assert scaled["fvu_without_massive"] == pytest.approx(float(off), rel=0.02)


def test_a_full_disk_is_said(disk_of):
    from actstore_extract.training.saes.autoencoder import Settings, fit, save

    sae = fit(torch.randn(64, 32), Settings(features=64, k=2, steps=1), torch.Generator(), hook="h", model=None)
    folder = disk_of("16k") / "layer_1"
    with pytest.raises(OSError, match="No space left on device") as found:
        save(sae, folder)
    assert found.value.filename == str(folder)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layers", "7"], "layer 7 is not in this store; it has 0, 1"),
        (["from rows where role = 'nobody'"], "0.2 of 0 samples leave none to learn from"),
        (["from samples"], "the query gives no row_id"),
    ],
)
def test_refused(store, tmp_path, capsys, words, said):
    _, err = trained(capsys, store, tmp_path / "out", *words, status=1)
    assert said in err
    assert not list((tmp_path / "out").glob("layer*"))


def test_a_folder_that_was_made_otherwise(store, made, capsys):
    _, err = trained(capsys, store, made, "--steps", "61", status=1)
    assert "layer_0 was made otherwise, with steps = 60: choose another folder" in err


def test_out_below_a_file(store, model, capsys):
    _, err = trained(capsys, store, model / "config.json" / "out", status=1)
    assert "out cannot be a folder: Not a directory; choose another" in err


def test_without_the_model(store, tmp_path, capsys):
    table, _ = trained(capsys, store, tmp_path / "out", "--layers", "1", "--no-loss")
    assert table[1]["recovered"] is None
    assert table[1]["fvu"] < 0.6


def test_another_model_s_vectors_are_found_out(store, model):
    """The losses are of vectors that the model here does not give: refused."""
    from actstore_extract.again.rerun import Rerun
    from actstore_extract.run.encoder import prompt_of
    from actstore_extract.training.saes.recovered import Read

    ran = Rerun(store, device="cpu").run
    (row,) = ran.asked.head(1).iter_rows(named=True)
    encoded = ran.model.encode(prompt_of(ran.model, ran.recipe.prompt, row, ran.samples.image))
    at = np.arange(encoded.length)
    own = actstore.open(store)
    rows = own.sql(f"from rows where sample_id = '{row['sample_id']}' and role = 'text' order by position")
    stored = torch.from_numpy(own.residual(rows, 1))
    assert len(losses(ran.model, [Read(encoded, at, {1: stored})])) == len(list(pairwise(at)))
    with pytest.raises(ActstoreError, match=r"the model here gives other vectors than the store has: .* at layer 1"):
        losses(ran.model, [Read(encoded, at, {1: 1.01 * stored})])
