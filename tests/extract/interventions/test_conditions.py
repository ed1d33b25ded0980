"""Conditions in recipes: their names, their rows, and what the shipped models answer under them."""

import numpy as np
import polars as pl
import pytest
import torch

import actstore
from actstore.maintain import verify
from actstore_extract.families import Prompt, load
from actstore_extract.interventions.blocks import InterventionError, block_attention, parse_block
from actstore_extract.interventions.conditions import Condition, ConditionError, ConditionSection, crossed, expand
from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.estimate import estimate
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from extracting import SMALL, extract, vectors

GOOD = """
conditions = ["eoi-knockout"]
[model]
path = "digits-fusion"
[samples]
source = "digits"
[capture]
roles = ["eoi"]
"""


def conditions(*given, n_layers=6, seed=0):
    kinds = [ConditionSection if one == {"name": "none"} else KnockoutSection for one in given]
    sections = [kind.model_validate(one) for kind, one in zip(kinds, given, strict=True)]
    return expand(sections, n_layers=n_layers, seed=seed)


def accuracy(path):
    said = actstore.open(path).sql("select condition, avg((next_token = label)::int) a from samples group by all")
    return dict(said.iter_rows())


def test_ready_made_names():
    found = conditions({"name": "eoi-knockout"}, {"name": "image-knockout"}, {"name": "at-032-knockout"}, n_layers=2)
    block = {"queries": ["text"], "keys": ["eoi"], "layers": [0, 1], "mode": "post"}
    assert found["none"] == Condition()
    assert found["eoi-knockout"].blocked == (block,)
    assert found["image-knockout"].blocked == (
        {**block, "keys": ["boi", "image-size", "image", "eol", "machinery", "at-frame-end"]},
    )
    assert found["at-032-knockout"].blocked == ({**block, "keys": ["at-32"]},)
    images = conditions({"name": "image-image-knockout"}, n_layers=2)["image-image-knockout"].blocked[0]
    assert images["queries"] == images["keys"] == found["image-knockout"].blocked[0]["keys"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"name": "eoi-knockout", "windows": 4}, ["eoi-knockout-w4", "eoi-knockout-w6"]),
        ({"name": "eoi-knockout", "windows": 3}, ["eoi-knockout-w3", "eoi-knockout-w6"]),
        ({"name": "eoi-knockout", "windows": [1, 5]}, ["eoi-knockout-w1", "eoi-knockout-w5"]),
        ({"name": "eoi-knockout", "windows": 9}, ["eoi-knockout-w6"]),
        ({"name": "random-image-2-knockout", "repeats": 2}, [f"random-image-2-knockout-r{i}" for i in (1, 2)]),
        (
            {"name": "mine", "keys": "random-image", "windows": [2], "repeats": 2},
            ["mine-w2-r1", "mine-w2-r2"],
        ),
    ],
)
def test_names_of_several(given, names):
    assert list(conditions(given)) == ["none", *names]


def test_windows_are_the_last_layers_and_repeats_other_seeds():
    assert conditions({"name": "eoi-knockout", "windows": 4})["eoi-knockout-w4"].blocked[0]["layers"] == [2, 3, 4, 5]
    drawn = conditions({"name": "random-image-knockout", "repeats": 3}, seed=7)
    assert [one.seed for one in drawn.values()][1:] == [7, 8, 9]


def test_none_is_first_unless_it_is_listed():
    assert list(conditions()) == ["none"]
    assert list(conditions({"name": "eoi-knockout"}, {"name": "none"})) == ["eoi-knockout", "none"]


def test_some_samples_under_each_condition_and_then_the_next():
    asked = pl.DataFrame({"sample_id": list("abc")})
    plan = crossed(asked, conditions({"name": "eoi-knockout"}).values(), block=2)
    assert plan["sample_id"].to_list() == list("ababcc")
    assert plan["condition"].to_list() == ["none"] * 2 + ["eoi-knockout"] * 2 + ["none", "eoi-knockout"]
    assert plan.columns == ["sample_id", "condition"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ('["eoi-knokout"]', r"condition 'eoi-knokout': keys and queries are wanted, .* ready: eoi-knockout, image"),
        ('["eo-knockout"]', r"condition 'eo-knockout' keys: no role is called 'eo'; did you mean 'eo[il]'"),
        ('["eoi_knockout"]', "use lower-case letters"),
        ('"eoi-knockout"', "conditions is a list"),
        ("[{keys = 'eoi'}]", "has no name"),
        ("[3]", "condition 3 has no name"),
        ("[{name = 'x', key = 'eoi'}]", "condition 'x': unknown key 'key'; did you mean 'keys'"),
        ("[{name = 'x', keys = 'image-mean'}]", "a mean of positions"),
        ("[{name = 'x', keys = 'eoi', mode = 'during'}]", "mode: Input should be 'post' or 'pre'"),
        ("[{name = 'x', keys = 'eoi', layers = [1], windows = 2}]", "either layers or windows"),
        ("[{name = 'x', keys = 'eoi', layers = []}]", "blocks nothing"),
        ("[{name = 'x', keys = 'eoi', layers = [-1]}]", "blocks are counted from 0"),
        ("[{name = 'x', keys = 'eoi', repeats = 2}]", "repeats are for random roles"),
        ("[{name = 'none', keys = 'eoi'}]", "condition 'none': unknown key 'keys'"),
    ],
)
def test_a_mistake_is_named(tmp_path, given, message):
    (tmp_path / "mine.toml").write_text(GOOD.replace('["eoi-knockout"]', given))
    with pytest.raises(RecipeError, match=message):
        recipe.load(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([{"name": "eoi-knockout"}, {"name": "eoi-knockout"}], "'eoi-knockout' is there twice"),
        ([{"name": "eoi-knockout", "layers": [6]}], "6 is too large for a model of 6 layers"),
        ([{"name": "eoi-knockout", "windows": [7]}], "7 is too large for a model of 6 layers"),
    ],
)
def test_what_the_model_cannot_have(given, message):
    with pytest.raises(ConditionError, match=message):
        conditions(*given)


def test_a_head_that_is_not_there_is_said_before_anything_runs(tmp_path):
    with pytest.raises(InterventionError, match="heads 0 to 3"):
        extract(tmp_path / "s", "conditions=[{name = 'x', keys = 'eoi', heads = [4]}]")
    assert not (tmp_path / "s").exists()


def test_a_condition_without_its_key_changes_nothing_and_says_so(tmp_path):
    said = []
    keys = [*SMALL, "samples.limit=4", "conditions=['eol-knockout']", "capture.roles=['last']"]
    Run(recipe.load("digits-fusion", keys), say=said.append).extract(tmp_path / "s")
    assert said.count("there is no eol here: conditions that keep attention from it change nothing") == 1
    rows = actstore.open(tmp_path / "s").sql("from rows order by row_id")
    x = actstore.open(tmp_path / "s").residual(rows, 6)
    np.testing.assert_array_equal(x[:4], x[4:])


FEW = ("samples.limit=96", "samples.split=test", "capture.part_samples=40", "capture.batch_size=16")


@pytest.fixture(scope="module")
def knocked(tmp_path_factory):
    """Stores of the two shipped recipes, small."""
    paths = {name: tmp_path_factory.mktemp("knocked") / name for name in ("digits-fusion", "digits-gated")}
    for name, path in paths.items():
        extract(path, *FEW, name=f"{name}-knockout")
    return paths


def test_one_row_for_each_sample_and_condition(knocked):
    store = actstore.open(knocked["digits-fusion"])
    names = [
        "none",
        *(f"eoi-knockout-{w}" for w in ("w2", "w4", "w6", "pre")),
        *(f"image-knockout-w{w}" for w in (2, 4, 6)),
    ]
    assert store.plan["condition"].unique(maintain_order=True).to_list() == names
    assert store.sql("select count(*), count(distinct sample_id) from samples").row(0) == (96 * 8, 96)
    assert store.sql("select distinct n from (select count(*) n from rows group by sample_id, condition)").item() == 2
    assert list(store.run["conditions"]) == names
    assert verify.run(verify.steps(store.path)) == []


def test_no_gate_in_digits_fusion_and_one_in_digits_gated(knocked):
    fusion, gated = (accuracy(knocked[name]) for name in ("digits-fusion", "digits-gated"))
    assert fusion["none"] > 0.85
    assert abs(fusion["eoi-knockout-w6"] - fusion["none"]) < 0.1
    assert fusion["image-knockout-w6"] < 0.25
    assert fusion["image-knockout-w2"] > fusion["image-knockout-w4"] > fusion["image-knockout-w6"] - 0.05
    assert gated["none"] > 0.85
    assert gated["image-knockout"] > 0.85
    assert gated["eoi-knockout-pre"] < 0.25
    assert gated["eoi-knockout-w6"] < 0.4  # what the softmax lost still tells how large it was


@pytest.mark.parametrize("condition", ["none", "eoi-knockout-w4", "image-knockout-w6", "eoi-knockout-pre"])
def test_equal_to_the_model_run_by_hand(tmp_path, knocked, condition):
    one = ("capture.batch_size=1", "samples.limit=2", "model.dtype=float32", "samples.split=test")
    extract(tmp_path / "s", *one, name="digits-fusion-knockout")
    store = actstore.open(tmp_path / "s")
    model = load(str(MODELS["digits-fusion"]), dtype="float32")
    blocked = store.run["conditions"][condition]
    source = recipe.load("digits-fusion").samples.samples()
    wanted = store.sql(f"from rows where condition = '{condition}' and role = 'last' order by row_id")
    assert wanted.height == 2
    for row in wanted.iter_rows(named=True):
        batch = model.collate([model.encode(Prompt(row["sample_id"], row["prompt"], source.image(row["image"])))])
        seen = []
        hook = model.norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0][0, -1]))
        with block_attention(model, batch, [parse_block(block, n_layers=6) for block in blocked]), torch.no_grad():
            logits = model(batch).logits[0, -1]
        hook.remove()
        x = store.residual(store.sql(f"from rows where row_id = {row['row_id']}"), 6)
        np.testing.assert_array_equal(x[0], seen[0].numpy())
        assert row["next_token_id"] == int(logits.argmax())
        assert (condition == "none") == (np.abs(x[0] - _as_it_is(store, row)).max() == 0)


def _as_it_is(store, row):
    rows = store.sql(f"from rows where condition = 'none' and role = 'last' and sample_id = '{row['sample_id']}'")
    return store.residual(rows, 6)[0]


def test_generation_is_under_the_condition(tmp_path):
    changes = ("capture.max_new_tokens=3", "samples.limit=16", "samples.split=test", "capture.batch_size=16")
    extract(tmp_path / "s", *changes, "conditions=['image-knockout']")
    said = actstore.open(tmp_path / "s").sql(
        """select condition, avg(starts_with(generated_text, label)::int) a,
                  avg(starts_with(generated_text, next_token)::int) same
           from samples group by all order by all"""
    )
    assert said["condition"].to_list() == ["image-knockout", "none"]
    assert said["a"][0] < 0.4 < 0.8 < said["a"][1]
    assert said["same"].min() > 0.85  # bfloat16 with a cache may break a tie otherwise


def test_attention_is_read_under_the_condition(tmp_path):
    extract(tmp_path / "s", "samples.limit=4", "conditions=['eoi-knockout']", "capture.attention=['eoi', 'last-image']")
    values, about = actstore.open(tmp_path / "s").attention("eoi", layer=2)
    blocked = (about["condition"] == "eoi-knockout").to_numpy()
    assert blocked.tolist() == [False] * 4 + [True] * 4
    assert np.nanmax(values[blocked]) == 0
    assert np.nanmin(values[~blocked]) > 0


def test_random_keys_are_drawn_anew_in_each_repeat(tmp_path):
    extract(tmp_path / "s", "samples.limit=4", "conditions=[{name = 'random-image-8-knockout', repeats = 2}]")
    found = vectors(tmp_path / "s")
    assert len(found) == len(set(found))
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows where role = 'last' order by condition, sample_id")
    none, first, second = store.residual(rows, 6).reshape(3, 4, -1)
    assert (none != first).any(-1).all()
    assert (first != second).any(-1).all()


def test_a_sample_that_fails_does_so_under_each_condition(tmp_path):
    (tmp_path / "t.csv").write_text(
        "sample_id,image,prompt\na,none.png,<image>this\nb,digit.png,<image>this digit is a\n"
    )
    recipe.load("digits-fusion").samples.samples().image("digit-0000").save(tmp_path / "digit.png")
    keys = [f"samples={{source='table', path='{tmp_path / 't.csv'}'}}", "conditions=['eoi-knockout']"]
    done = Run(recipe.load("digits-fusion", keys)).extract(tmp_path / "s")
    assert (done.samples, done.failed) == (4, 2)


def test_estimate_counts_each_condition():
    keys = ["samples.limit=40", "capture.batch_size=8", "conditions=['eoi-knockout', 'image-knockout']"]
    cost = estimate(Run(recipe.load("digits-fusion", keys)))
    assert (cost.samples, cost.rows["image"], cost.measured_on) == (120, 3 * 640, 8)
