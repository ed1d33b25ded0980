"""PaliGemma through the recipe that ships for it, image and text alone, to what autoencoders make of its vectors."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import actstore
import pictured
import tiny
from actstore.commands.main import run
from actstore_extract.families import Prompt, load

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of its processor
D, N = 32, 16
QUESTION, ANSWER = "this digit is a", "one"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny PaliGemma 2, two conversations about pictures, and an autoencoder for every block."""
    folder = tmp_path_factory.mktemp("paligemma")
    made = pictured.paligemma(weights=True)
    tiny.spread(made.module)
    tiny.save(made, folder / "model")
    turns = [{"from": "human", "value": f"<image>\n{QUESTION}"}, {"from": "gpt", "value": ANSWER}]
    said = [{"id": str(i), "image": f"{i}.png", "conversations": turns} for i in range(2)]
    (folder / "said.json").write_text(json.dumps(said))
    for i in range(2):
        tiny.image(i, (56, 56)).save(folder / f"{i}.png")
    rng = np.random.default_rng(0)
    for block in range(2):
        (folder / "saes" / f"layer_{block}").mkdir(parents=True)
        enc = rng.standard_normal((D, 48)).astype(np.float32)
        none = np.zeros(48, np.float32)
        parts = {"W_enc": enc, "W_dec": enc.T / D, "b_enc": none, "b_dec": none[:D], "threshold": none + 0.5}
        np.savez(folder / "saes" / f"layer_{block}" / "params.npz", **parts)
    return folder


@pytest.fixture(scope="module")
def store(folder):
    sets = [f"model.path={folder / 'model'}", f"samples.path={folder / 'said.json'}", "model.dtype=float32"]
    asked = ["extract", "paligemma2-3b/sae", str(folder / "store"), "--device", "cpu"]
    assert run([*asked, *(word for one in sets for word in ("--set", one))]) == 0
    return actstore.open(folder / "store")


def words(store, sample, role):
    rows = store.sql(
        f"select token_id from rows join samples using (sample_id, condition) where sample_id = '{sample}' "
        f"and role = '{role}' order by k"
    )
    return [store.vocabulary[token] for token in rows["token_id"]]


def test_three_groups_of_tokens(store):
    counts = store.sql("select prompt_order, role, count(*) n from rows group by all order by all").rows()
    assert counts == [("image-text", "image", 2 * N), ("image-text", "text", 12), ("text", "text", 22)]


def test_every_vector_is_that_of_an_own_forward(folder, store):
    model = load(str(folder / "model"), dtype="float32")
    prompts = dict(store.plan.select("sample_id", "prompt").iter_rows())
    for name, prompt in prompts.items():
        picture = tiny.image(int(name.partition("/")[0]), (56, 56)) if "<image>" in prompt else None
        encoded = model.encode(Prompt(name, prompt, picture))
        inputs = {key: value for key, value in encoded.inputs.items() if key != "labels"}
        with torch.no_grad():
            states = model.module.model(**inputs, output_hidden_states=True, use_cache=False).hidden_states
        for role, at in (("image", encoded.layout.image), ("text", encoded.layout.text)):
            rows = store.sql(f"from rows where sample_id = '{name}' and role = '{role}' order by k")
            assert rows.height == len(at)
            for layer in (0, 1) if rows.height else ():
                np.testing.assert_allclose(store.residual(rows, layer), states[layer][0, at], atol=1e-5)


def test_text_alone_is_written_as_beside_an_image(folder):
    model = load(str(folder / "model"), dtype="float32")
    alone = model.encode(Prompt("a", "this digit is a", None))
    beside = model.encode(Prompt("b", "<image>this digit is a", tiny.image(0, (56, 56))))
    assert alone.layout.token_ids.tolist() == beside.layout.token_ids[N:].tolist()
    assert alone.layout.text.tolist() == (beside.layout.text - N).tolist() == [1, 2, 3, 4]
    batch = model.collate([alone, replace(alone, sample_id="c")])
    assert torch.isfinite(model(batch).logits).all()


def test_autoencoders_of_its_blocks(folder, store, capsys):
    assert run(["sae", str(store.path), "--saes", str(folder / "saes")]) == 0
    table = pl.DataFrame([json.loads(line) for line in capsys.readouterr().out.splitlines()])
    groups = table.filter(control="none").select("role", "prompt_order").unique().sort("role", "prompt_order").rows()
    assert groups == [("image", "image-text"), ("text", "image-text"), ("text", "text")]
    assert table["layer"].unique().sort().to_list() == [1, 2]
