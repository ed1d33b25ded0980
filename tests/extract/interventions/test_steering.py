"""Steering: vectors added to the residual stream, or put in its place, equal to hooks written out; what is refused."""

import os
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

import actstore
import tiny
from actstore.format.plan import prepare
from actstore.maintain import verify
from actstore_extract.families import Prompt
from actstore_extract.interventions.conditions import ConditionError, crossed, expand
from actstore_extract.interventions.steers import SteerSection
from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from extracting import SMALL, extract, vectors

TEXTS = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]
NEW = 3


def section(**given):
    return SteerSection.model_validate({"name": "eoi-steer", "layers": [1], **given})


def write(path, *values):
    np.save(path, np.array(values, np.float32))
    return str(path)


def steers(n_layers=3, **given):
    return {one.name: one.steer for one in section(**given).conditions(n_layers=n_layers, seed=0)}


def test_one_condition_for_each_layer_and_scale(tmp_path):
    x = write(tmp_path / "x.npy", 1, 2, 2)
    assert list(steers(vector=x)) == ["eoi-steer-l1"]
    assert list(steers(vector=x, layers="all")) == [f"eoi-steer-l{i}" for i in range(4)]
    found = steers(vector=x, layers=[0, 3], scale=[4, -0.5], name="mine", steer="last-image", generated=True)
    assert list(found) == ["mine-l0-s4", "mine-l0-s-0.5", "mine-l3-s4", "mine-l3-s-0.5"]
    one = found["mine-l3-s-0.5"]
    assert (one.role, one.layer, one.scale, one.generated, one.mode) == ("last-image", 3, -0.5, True, "add")
    assert one.vector.tolist() == [1, 2, 2]
    assert one.card() | {"files": ()} == {
        "steer": "last-image", "layer": 3, "mode": "add", "scale": -0.5, "generated": True, "files": (), "norm": 3.0,
    }  # fmt: skip


def test_a_file_of_several_vectors_means_their_mean(tmp_path):
    rows = write(tmp_path / "rows.npy", [1, 2], [3, 6])
    less = write(tmp_path / "less.npy", 1, 1)
    assert steers(vector=rows)["eoi-steer-l1"].vector.tolist() == [2, 4]
    assert steers(vector=rows, minus=less)["eoi-steer-l1"].vector.tolist() == [1, 3]
    kept = pl.DataFrame({"row_id": [1, 2], "layer_0": [[1.0, 2.0]] * 2, "layer_2": [[3.0, 5.0], [5.0, 5.0]]})
    kept.write_parquet(tmp_path / "rows.parquet")
    found = steers(vector=str(tmp_path / "rows.parquet"), layers=[0, 2])
    assert [one.vector.tolist() for one in found.values()] == [[1, 2], [4, 5]]
    with pytest.raises(ConditionError, match=r"rows.parquet: no column layer_1, only layer_0, layer_2"):
        steers(vector=str(tmp_path / "rows.parquet"))
    kept.drop("layer_0").write_parquet(tmp_path / "one.parquet")
    assert steers(vector=str(tmp_path / "one.parquet"), layers=[0])["eoi-steer-l0"].vector.tolist() == [4, 5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{name = 'eoi-steer', layers = [1]}", "vector: Field required"),
        ("{name = 'eoi-steer', vector = 'x.npy'}", "layers: Field required"),
        ("{name = 'eo-steer', vector = 'x.npy', layers = [1]}", "no role is called 'eo'"),
        ("{name = 'image-mean-steer', vector = 'x.npy', layers = [1]}", "is a mean of positions"),
        ("{name = 'eoi-steer', vector = 'x.npy', layers = []}", "nothing to be steered"),
        ("{name = 'eoi-steer', vector = 'x.npy', layers = [1], scale = []}", "nothing to be steered"),
        ("{name = 'eoi-steer', vector = 'x.npy', layers = [-1]}", "counted from 0"),
        ("{name = 'eoi-steer', vector = 'x.npy', layers = [1], mode = 'multiply'}", "mode: Input should be 'add' or"),
        (
            "{name = 'x', steer = 'eoi', vectors = 'x.npy', layers = [1]}",
            "unknown key 'vectors'; did you mean 'vector'",
        ),
    ],
)
def test_a_mistake_is_named(given, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("digits-fusion", [f"conditions=[{given}]"])


def test_files_that_hold_no_vector(tmp_path):
    with pytest.raises(ConditionError, match=r"none.npy cannot be read: No such file.*actstore export STORE"):
        steers(vector=str(tmp_path / "none.npy"))
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(ConditionError, match=r"pipe.npy cannot be read: it is a pipe that nobody writes to"):
        steers(vector=str(tmp_path / "pipe.npy"))
    (tmp_path / "x.txt").write_text("1 2")
    with pytest.raises(ConditionError, match=r"x.txt is neither .npy nor .parquet"):
        steers(vector=str(tmp_path / "x.txt"))
    (tmp_path / "bad.npy").write_bytes(b"no")
    with pytest.raises(ConditionError, match=r"condition 'eoi-steer': .*bad.npy: "):
        steers(vector=str(tmp_path / "bad.npy"))
    with pytest.raises(ConditionError, match="not finite"):
        steers(vector=write(tmp_path / "nan.npy", 1, np.nan))
    with pytest.raises(ConditionError, match=r"float32 of shape \(1, 2, 2\); vectors \(n, d\) are wanted"):
        steers(vector=write(tmp_path / "cube.npy", [[1, 2], [3, 4]]))
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(ConditionError, match="holds <U1 of shape"):
        steers(vector=str(tmp_path / "words.npy"))
    two, three = write(tmp_path / "two.npy", 1, 2), write(tmp_path / "three.npy", 1, 2, 3)
    with pytest.raises(ConditionError, match=r"vectors of 2 numbers in .*two.npy, of 3 in .*three.npy"):
        steers(vector=two, minus=three)
    with pytest.raises(ConditionError, match="4 is too large for a model of 3 layers"):
        steers(vector=two, layers=[4])


def test_a_vector_of_another_width_is_refused_before_anything_runs(tmp_path):
    x = write(tmp_path / "x.npy", 1, 2, 3)
    with pytest.raises(
        ConditionError, match=r"vectors of 3 numbers in .*x.npy, but this model's residual stream has 64"
    ):
        extract(tmp_path / "s", f"conditions=[{{name = 'eoi-steer', layers = [2], vector = '{x}'}}]")
    assert not (tmp_path / "s").exists()


def changed(x, mode, vector):
    return x + vector if mode == "add" else vector


@torch.no_grad()
def by_hand(model, sample, at, layer, change, *, generated, new=()):
    """Logits after the prompt and each `new` token, without a cache; `change` at positions, and behind the prompt."""

    def hook(_, args, kwargs):
        x = (args[0] if args else kwargs["hidden_states"]).clone()
        x[0, at] = change(x[0, at])
        if generated:
            x[0, sample.layout.length :] = change(x[0, sample.layout.length :])
        return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

    handle = [*model.layers, model.norm][layer].register_forward_pre_hook(hook, with_kwargs=True)
    batch, logits = model.collate([sample]), []
    for n in range(len(new) + 1):
        grown = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
        grown["input_ids"] = torch.cat([grown["input_ids"], torch.tensor([list(new[:n])], dtype=torch.long)], 1)
        grown["attention_mask"] = torch.ones_like(grown["input_ids"])
        logits.append(model.module(**grown, use_cache=False).logits[0, -1])
    handle.remove()
    return torch.stack(logits)


def said_by_hand(model, sample, at, layer, change, *, generated):
    """The likeliest tokens, one after the other, as `generate` says them."""
    new = []
    for _ in range(NEW):
        logits = by_hand(model, sample, at, layer, change, generated=generated, new=new)[-1]
        logits[model.image_token_id] = -torch.inf
        new.append(int(logits.argmax()))
    ends = model.module.generation_config.eos_token_id
    ends = [ends] if isinstance(ends, int) else ends or []
    end = next((i for i, token in enumerate(new) if token in ends), NEW)
    return model.tokenizer.decode(new[:end], skip_special_tokens=True).strip()


@pytest.mark.parametrize("system", tiny.SYSTEMS)
def test_equal_to_plain_hooks(system, tmp_path):
    model = tiny.model(system)
    v = np.random.default_rng(0).standard_normal(model.d_model).astype(np.float32)
    np.save(tmp_path / "v.npy", v)
    both = f"steer = 'image', vector = '{tmp_path / 'v.npy'}', layers = [1, {model.n_layers}], scale = 3"
    made = recipe.load(
        "digits-fusion",
        [
            f"conditions=[{{name = 'add', {both}, generated = true}}, {{name = 'put', {both}, mode = 'replace'}}]",
            f"capture.max_new_tokens={NEW}",
            "capture.roles=['last-image']",
        ],
    )
    asked = pl.DataFrame({"sample_id": ["a", "b"], "image": ["0", "1"], "prompt": TEXTS, "label": ["x", "y"]})
    asked = asked.with_columns(prompt_order=pl.lit("image-text"))
    conditions = expand(made.conditions, n_layers=model.n_layers, seed=0)
    plan = prepare(crossed(asked, conditions.values(), block=2))
    images = {str(i): tiny.image(i) for i in range(2)}
    layers = range(model.n_layers + 1)
    extractor = Extractor(model, made, images.get, layers=layers, dtype="float32", batch_size=2, asked=asked)
    found = extractor.content(plan)
    assert found.samples["status"].to_list() == ["ok"] * 10, found.samples["error"].to_list()
    samples = [model.encode(Prompt(name, text, images[i])) for name, text, i in zip("ab", TEXTS, "01", strict=True)]
    x = found.residual["last-image"]
    kept, plain = found.samples["top_probabilities"].to_list(), found.samples["top_probabilities"].to_list()[:2]
    for j, row in enumerate(found.samples.iter_rows(named=True)):
        steer, sample = conditions[row["condition"]].steer, samples[j % 2]
        if steer is None:
            continue
        change = partial(changed, mode=steer.mode, vector=3 * torch.from_numpy(v))
        run = (model, sample, torch.from_numpy(sample.layout.image), steer.layer, change)
        expected = by_hand(*run, generated=steer.generated)[0].softmax(-1)
        np.testing.assert_allclose(kept[j], expected.topk(10).values.numpy(), atol=1e-5)
        assert row["generated_text"] == said_by_hand(*run, generated=steer.generated)
        if steer.layer == 1:
            own = x[1, j % 2] + 3 * v if steer.mode == "add" else 3 * v
            np.testing.assert_allclose(x[1, j], own, atol=1e-4)  # what is stored is what the block reads
            assert np.abs(np.subtract(kept[j], plain[j % 2])).max() > 1e-4  # it does something
        else:
            np.testing.assert_allclose(kept[j], plain[j % 2], atol=1e-6)  # at the output, nothing reads that position


def test_the_model_as_it_is_stays_as_it_is(tmp_path):
    write(tmp_path / "v.npy", *np.ones(64))
    few = ("samples.limit=4", "capture.max_new_tokens=2", "capture.roles=['last']")
    extract(tmp_path / "plain", *few)
    condition = f"{{name = 'last-steer', layers = [3], vector = '{tmp_path / 'v.npy'}', scale = 9}}"
    extract(tmp_path / "steered", *few, f"conditions=[{condition}]")
    plain, steered = vectors(tmp_path / "plain"), vectors(tmp_path / "steered")
    assert plain == {key: x for key, x in steered.items() if key[1] == "none"}
    store = actstore.open(tmp_path / "steered")
    both = store.sql("select condition, list(generated_text order by sample_id) t from samples group by all")
    texts = dict(both.iter_rows())
    assert (
        texts["none"]
        == actstore.open(tmp_path / "plain").sql("from samples order by sample_id")["generated_text"].to_list()
    )
    assert texts["last-steer-l3"] != texts["none"]
    assert verify.run(verify.steps(store.path)) == []
    (card,) = store.run["conditions"]["last-steer-l3"]
    assert card["steer"] == "last"
    assert card["norm"] == 8


def test_another_file_under_the_same_name_is_refused_on_resume(tmp_path):
    write(tmp_path / "v.npy", *np.ones(64))
    condition = f"conditions=[{{name = 'last-steer', layers = [3], vector = '{tmp_path / 'v.npy'}'}}]"
    extract(tmp_path / "s", condition, "samples.limit=4")
    assert extract(tmp_path / "s", condition, "samples.limit=4").samples == 0
    write(tmp_path / "v.npy", *np.zeros(64))
    with pytest.raises(actstore.ActstoreError, match="sha256"):
        extract(tmp_path / "s", condition, "samples.limit=4")
    kept = section(vector=str(tmp_path / "v.npy"), sha256="0" * 64)
    with pytest.raises(ConditionError, match="is another file than the recipe says"):
        kept.conditions(n_layers=6, seed=0)


def test_a_role_that_is_not_there_is_said(tmp_path):
    write(tmp_path / "v.npy", *np.ones(64))
    said = []
    condition = f"conditions=[{{name = 'eol-steer', layers = [3], vector = '{tmp_path / 'v.npy'}'}}]"
    Run(recipe.load("digits-fusion", [*SMALL, condition, "samples.limit=4"]), say=said.append).extract(tmp_path / "s")
    assert said.count("there is no eol here: conditions that steer it change nothing in the prompt") == 1
