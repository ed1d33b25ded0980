"""Patches: vectors of a source in a receiver's forward, against hooks written out, and through the pipeline."""

import numpy as np
import polars as pl
import pytest
import torch

import actstore
import tiny
from actstore.format.plan import prepare
from actstore.maintain import verify
from actstore_analyze.patch import measure as patching
from actstore_analyze.patch.study import patched
from actstore_analyze.report import causal
from actstore_extract.families import Prompt, load
from actstore_extract.forward.points import reading, writing
from actstore_extract.forward.tap import attention_modules
from actstore_extract.interventions.conditions import ConditionError, crossed, expand
from actstore_extract.interventions.patches import PatchSection
from actstore_extract.interventions.sources import slots
from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.estimate import estimate
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from extracting import SMALL, extract

PAIRS = "[['seven', 'three'], ['one', 'zero']]"
ROUNDING, SIZE = 2e-5, 5  # in float32, on logits of that size
WORDS = ["seven", "three", "one", "zero"]
TEXTS = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]


def section(**given):
    return PatchSection.model_validate({"name": "eoi-patch", "pairs": [["a", "b"]], **given})


def names(**given):
    return list(expand([section(**given)], n_layers=3, seed=0))[1:]


def test_one_condition_for_each_layer():
    assert names() == ["eoi-patch-l0", "eoi-patch-l1", "eoi-patch-l2", "eoi-patch-l3"]
    assert names(point="attention-input") == ["eoi-patch-l0", "eoi-patch-l1", "eoi-patch-l2"]
    assert names(layers=[2], name="mine", patch="last-image") == ["mine-l2"]
    found = expand([section(point="attention-input")], n_layers=3, seed=0)["eoi-patch-l1"].patch
    assert (found.role, found.layers, found.pairs) == ("eoi", (1, 2), (("a", "b"),))
    assert len(section(pairs="narrow-gate").conditions(n_layers=3, seed=0)[0].patch.pairs) == 10


def test_receivers_are_matched_with_sources_in_their_order():
    asked = pl.DataFrame({"sample_id": list("uvwxyz"), "label": list("bababb"), "prompt_order": ["image-text"] * 6})
    plan = crossed(asked, expand([section(layers=[1])], n_layers=3, seed=0).values(), block=9)
    assert plan["condition"].to_list() == ["none"] * 6 + ["eoi-patch-l1"] * 2
    patched = plan.filter(pl.col("condition") != "none")
    assert patched.select("sample_id", "source_sample_id", "source_label").rows() == [("u", "v", "a"), ("w", "x", "a")]
    assert plan["source_sample_id"].null_count() == 6
    with pytest.raises(ConditionError, match="none of 6 samples has label 'c'; .* take more of them: --limit N"):
        crossed(asked, expand([section(pairs=[["c", "b"]])], n_layers=3, seed=0).values(), block=9)
    with pytest.raises(ConditionError, match="no column 'lable'; did you mean 'label'"):
        crossed(asked, expand([section(by="lable")], n_layers=3, seed=0).values(), block=9)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{name = 'eoi-patch'}", "pairs: Field required"),
        ("{name = 'eo-patch', pairs = [['a', 'b']]}", "no role is called 'eo'"),
        ("{name = 'image-mean-patch', pairs = [['a', 'b']]}", "is a mean of positions"),
        ("{name = 'eoi-patch', pairs = [['a', 'b'], ['c', 'b']]}", "'b' receives twice"),
        ("{name = 'eoi-patch', pairs = []}", "nothing to be patched"),
        ("{name = 'eoi-patch', pairs = [['a', 'b']], layers = [-1]}", "counted from 0"),
        ("{name = 'eoi-patch', pairs = [['a', 'b']], point = 'mlp'}", "point: Input should be"),
        ("{name = 'x', patch = 'eoi', pair = [['a', 'b']]}", "unknown key 'pair'; did you mean 'pairs'"),
    ],
)
def test_a_mistake_is_named(given, message):
    with pytest.raises(RecipeError, match=message):
        recipe.load("digits-fusion", [f"conditions=[{given}]"])


def test_a_layer_that_is_not_there():
    with pytest.raises(ConditionError, match="4 is too large for a model of 3 layers"):
        names(layers=[4])
    with pytest.raises(ConditionError, match="3 is too large"):
        names(layers=[3], point="attention-input")


# Against hooks written out, on every system


def _modules(model, point):
    return [*model.layers, model.norm] if point == "residual" else attention_modules(model)


@torch.no_grad()
def by_hand(model, source, receiver, point, role, layers, new=()):
    """Logits after the receiver and each of `new` tokens behind it, by plain hooks on single samples without cache."""
    kept, hooks, logits = {}, [], []
    at = [int(getattr(one.layout, "eoi" if role == "eoi" else "image_end")) for one in (source, receiver)]
    for layer in layers:

        def read(_, args, kwargs, layer=layer):
            kept[layer] = (args[0] if args else kwargs["hidden_states"])[0, at[0]].clone()

        hooks.append(_modules(model, point)[layer].register_forward_pre_hook(read, with_kwargs=True))
    model(model.collate([source]))
    for hook in hooks:
        hook.remove()
    hooks = []
    for layer in layers:

        def write(_, args, kwargs, layer=layer):
            x = (args[0] if args else kwargs["hidden_states"]).clone()
            x[0, at[1]] = kept[layer]
            return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": x})

        hooks.append(_modules(model, point)[layer].register_forward_pre_hook(write, with_kwargs=True))
    batch = model.collate([receiver])
    for n in range(len(new) + 1):
        grown = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
        extra = torch.tensor([list(new[:n])], dtype=torch.long)
        grown["input_ids"] = torch.cat([grown["input_ids"], extra], 1)
        grown["attention_mask"] = torch.ones_like(grown["input_ids"])
        logits.append(model.module(**grown, use_cache=False).logits[0, -1])
    for hook in hooks:
        hook.remove()
    return torch.stack(logits)


@torch.no_grad()
def in_cache(model, source, receiver, point, role, layers, *, steps):
    """Logits of each greedy step with a cache, patched as extraction does it, and the tokens."""
    batch, other = model.collate([receiver], left=True), model.collate([source])
    at = [np.array([int(getattr(one.layout, "eoi" if role == "eoi" else "image_end"))]) for one in (source, receiver)]
    wanted = [(point, layer) for layer in layers]
    with reading(model, other, slots(other, [at[0]]), wanted) as seen:
        model(other)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    options = {"max_new_tokens": steps, "do_sample": False, "suppress_tokens": [model.image_token_id]}
    with writing(model, batch, slots(batch, [at[1]]), seen):
        out = model.module.generate(
            **inputs, **options, eos_token_id=None, return_dict_in_generate=True, output_logits=True
        )
    return torch.cat(out.logits), out.sequences[0, batch.n_slots :].tolist()


@pytest.mark.parametrize("system", tiny.SYSTEMS)
@pytest.mark.parametrize("point", ["residual", "attention-input"])
def test_equal_to_plain_hooks(system, point):
    model = tiny.model(system)
    role = "eoi" if model.encode(tiny.prompts(TEXTS[:1])[0]).layout.eoi is not None else "last-image"
    asked = pl.DataFrame(
        {
            "sample_id": ["s0", "r0", "s1", "r1"],
            "label": ["one", "two", "one", "two"],
            "image": ["0", "1", "2", "3"],
            "prompt": [TEXTS[0], TEXTS[1], TEXTS[1], TEXTS[0]],
            "prompt_order": ["image-text"] * 4,
        }
    )
    made = recipe.load(
        "digits-fusion",
        [
            f"conditions=[{{name = 'p', patch = '{role}', point = '{point}', pairs = [['one', 'two']]}}]",
            f"capture.roles=['{role}', 'last']",
            "capture.answers=['one', 'two']",
            "capture.max_new_tokens=3",
        ],
    )
    conditions = expand(made.conditions, n_layers=model.n_layers, seed=0)
    plan = prepare(crossed(asked, conditions.values(), block=4))
    images = {str(i): tiny.image(i) for i in range(4)}
    extractor = Extractor(
        model, made, images.get, layers=range(model.n_layers + 1), dtype="float32", batch_size=2, asked=asked
    )
    found = extractor.content(plan)
    assert found.samples["status"].to_list() == ["ok"] * plan.height, found.samples["error"].to_list()
    joined = found.samples.join(plan, on=["sample_id", "condition"], maintain_order="left")
    encoded = {
        row["sample_id"]: model.encode(Prompt(row["sample_id"], row["prompt"], images[row["image"]]))
        for row in asked.iter_rows(named=True)
    }
    clean = {row["sample_id"]: row["answer_probabilities"] for row in joined.head(4).iter_rows(named=True)}
    tokens = model.tokenizer.convert_tokens_to_ids(["one", "two"])
    moved = []
    for row in joined.tail(-4).iter_rows(named=True):
        layers = conditions[row["condition"]].patch.layers
        sample, source = encoded[row["sample_id"]], encoded[row["source_sample_id"]]
        expected = by_hand(model, source, sample, point, role, layers)[0].softmax(-1)
        np.testing.assert_allclose(row["answer_probabilities"], expected[tokens].numpy(), atol=1e-5)
        np.testing.assert_allclose(row["top_probabilities"], expected.topk(10).values.numpy(), atol=1e-5)
        own = model(model.collate([source])).logits[0, -1].softmax(-1)
        shared = patching.similarity(expected[None].numpy(), own[None].numpy())[0]
        assert row["source_similarity"] == pytest.approx(shared, abs=1e-5)
        moved.append(np.abs(np.subtract(row["answer_probabilities"], clean[row["sample_id"]])).max())
    per_layer = np.reshape(moved, (-1, 2))
    assert per_layer.max() > 1e-4  # it does something
    if point == "residual":
        assert per_layer[-1].max() < 1e-6  # but not after the last block, where nothing reads it any more


@pytest.mark.parametrize("system", tiny.SYSTEMS)
@pytest.mark.parametrize("point", ["residual", "attention-input"])
def test_generation_goes_on_from_what_was_patched(system, point):
    model = tiny.model(system)
    role = "eoi" if model.encode(tiny.prompts(TEXTS[:1])[0]).layout.eoi is not None else "last-image"
    asked = pl.DataFrame({"sample_id": ["s", "r"], "label": ["one", "two"], "image": ["0", "1"]}).with_columns(
        prompt=pl.Series(TEXTS), prompt_order=pl.lit("image-text")
    )
    condition = f"{{name = '{role}-patch', layers = [1], point = '{point}', pairs = [['one', 'two']]}}"
    made = recipe.load(
        "digits-fusion", [f"conditions=[{condition}]", "capture.max_new_tokens=4", f"capture.roles=['{role}']"]
    )
    conditions = expand(made.conditions, n_layers=model.n_layers, seed=0)
    plan = prepare(crossed(asked, conditions.values(), block=2))
    images = {"0": tiny.image(0), "1": tiny.image(1)}
    extractor = Extractor(model, made, images.get, layers=[1, 2], dtype="float32", batch_size=2, asked=asked)
    found = extractor.content(plan)
    encoded = [model.encode(Prompt(name, text, images[i])) for name, text, i in zip("sr", TEXTS, "01", strict=True)]
    layers = conditions[f"{role}-patch-l1"].patch.layers
    cached, new = in_cache(model, *encoded, point, role, layers, steps=4)
    expected = by_hand(model, *encoded, point, role, layers, new)[:-1]
    real = expected > torch.finfo(expected.dtype).min
    assert float((cached - expected)[real].abs().max()) < ROUNDING * float(expected[real].abs().max()) / SIZE
    free, _ = in_cache(model, *encoded, point, role, (), steps=4)
    assert float((free - cached)[0][real[0]].abs().max()) > 1e-3
    ends = model.module.generation_config.eos_token_id
    end = next((i for i, token in enumerate(new) if token in np.atleast_1d(ends)), 4)
    expected = model.tokenizer.decode(new[:end], skip_special_tokens=True).strip()
    assert found.samples["generated_text"][2] == expected
    x = found.residual[role]
    assert np.abs(x[1, 2] - x[1, 0]).max() > 1e-3
    if point == "residual":  # what is stored is what the block received: the source's
        np.testing.assert_allclose(x[0, 2], x[0, 0], atol=1e-4)  # but for the rounding of other batches
        assert np.abs(x[0, 2] - x[0, 1]).max() > 1e-3


# Through the pipeline


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    path = tmp_path_factory.mktemp("patched") / "gated"
    extract(
        path,
        *("samples.split=test", "samples.limit=200", "capture.part_samples=64", "capture.batch_size=16"),
        f"conditions=[{{name = 'eoi-patch', pairs = {PAIRS}}}]",
        f"capture.answers={WORDS}",
        "capture.roles=['eoi', 'last']",
        name="digits-gated",
    )
    return actstore.open(path)


def with_rest(probabilities):
    """Those of the answers and, as one more, of all other tokens: their similarity is at least that of all tokens."""
    return np.column_stack([probabilities, 1 - probabilities.sum(1)]).clip(0)


def test_a_patch_of_the_gate_carries_the_class(gated):
    rows = gated.sql(
        """select r.condition, r.label, r.source_label, r.answer_probabilities p, s.answer_probabilities q,
                  r.source_similarity shared
           from samples r join samples s on s.sample_id = r.source_sample_id and s.condition = 'none'
           order by r.condition, r.sample_id"""
    )
    assert rows.height > 7 * 20
    assert rows["condition"].n_unique() == 7
    accuracy, similarity = {}, {}
    for (name,), group in rows.group_by("condition"):
        p = np.array(group["p"].to_list())
        target, base = ([WORDS.index(word) for word in group[column]] for column in ("source_label", "label"))
        accuracy[name] = patching.accuracy(np.log(p), target, base)
        similarity[name] = group["shared"].mean()
        at_least = patching.similarity(with_rest(p), with_rest(np.array(group["q"].to_list()))).mean()
        assert at_least > similarity[name] - 0.01  # sources ran in other batches, in bfloat16
    assert accuracy["eoi-patch-l6"] < 0.1
    assert similarity["eoi-patch-l6"] < 0.3  # nothing reads it there: the baseline
    assert max(accuracy.values()) > 0.9
    assert max(similarity.values()) > 0.6


def test_the_table_of_the_store_shows_the_gate(gated):
    found = patched(gated)
    assert found["layer"].to_list() == list(range(7))
    assert found["n"].unique().to_list() == [
        gated.sql("select count(*) from samples where source_label is not null").item() // 7
    ]
    best = found.sort("accuracy").row(-1, named=True)
    assert best["accuracy"] > 0.9 > 0.1 > best["accuracy_before"]
    assert best["similarity"] > 0.6 > 0.3 > best["baseline"] == found["similarity"][6]
    assert found["accuracy"][6] == pytest.approx(best["accuracy_before"], abs=0.02)  # nothing reads the patch there
    (text,) = causal.patches("digits-gated", found)
    assert text.endswith(": the patch carries what the source says.")


def test_the_store_is_sound_and_resumes(gated, tmp_path):
    assert verify.run(verify.steps(gated.path)) == []
    assert gated.sql("select count(*) from samples where status = 'failed'").item() == 0
    assert gated.run["conditions"]["eoi-patch-l2"][0]["layers"] == [2]
    joined = gated.sql(
        """select count(*) from samples r join samples s on s.sample_id = r.source_sample_id and s.condition = 'none'
           where s.label = r.source_label and r.label <> s.label"""
    )
    assert joined.item() == gated.sql("select count(*) from samples where source_label is not null").item()


def test_a_source_that_cannot_be_read_fails_its_receivers(tmp_path):
    (tmp_path / "t.csv").write_text(
        "sample_id,image,prompt,label\na,none.png,<image>this digit is a,one\nb,digit.png,<image>this digit is a,two\n"
        "c,digit.png,<image>this digit is a,one\nd,digit.png,<image>this digit is a,two\n"
    )
    recipe.load("digits-fusion").samples.samples().image("digit-0000").save(tmp_path / "digit.png")
    keys = [
        f"samples={{source='table', path='{tmp_path / 't.csv'}'}}",
        "conditions=[{name = 'eoi-patch', pairs = [['one', 'two']], layers = [2]}]",
        *("prompt.text=<image>this digit is a", "capture.roles=['eoi']"),
    ]
    done = Run(recipe.load("digits-fusion", keys)).extract(tmp_path / "s")
    assert (done.samples, done.failed) == (6, 2)
    error = actstore.open(tmp_path / "s").sql("select error from samples where sample_id = 'b' and status = 'failed'")
    assert error.item().startswith("its source a: image none.png: ")


def test_a_role_that_is_not_there_is_said():
    keys = [*SMALL, "conditions=[{name = 'eol-patch', pairs = [['one', 'two']], layers = [2]}]"]
    run = Run(recipe.load("digits-fusion", keys))
    content = run.extractor(4).content(run.planned.filter(pl.col("condition") == "eol-patch-l2"))
    assert set(content.samples["status"]) == {"failed"}
    assert content.samples["error"][0].startswith("0 tokens are eol here, 0 in its source digit-")


def test_the_same_source_into_itself_changes_nothing(tmp_path):
    model = load(str(MODELS["digits-fusion"]), dtype="float32")
    source = recipe.load("digits-fusion").samples.samples()
    one = model.encode(Prompt("x", "<image>this digit is a", source.image("digit-0003")))
    with torch.no_grad():
        plain = model(model.collate([one])).logits[0, -1]
    assert torch.equal(by_hand(model, one, one, "residual", "eoi", range(7))[0], plain)


def test_estimate_of_patches():
    keys = ["samples.limit=60", "capture.batch_size=8", f"conditions=[{{name = 'eoi-patch', pairs = {PAIRS}}}]"]
    run = Run(recipe.load("digits-fusion", keys))
    cost = estimate(run)
    assert cost.samples == run.planned.height > 60


def test_a_column_that_patches_add_is_refused():
    asked = pl.DataFrame({"sample_id": ["a"], "label": ["b"], "source_label": ["c"]})
    with pytest.raises(ConditionError, match="have a column 'source_label', which patches add: rename it"):
        crossed(asked, expand([section(layers=[1])], n_layers=3, seed=0).values(), block=9)


def test_answers_that_begin_alike_are_named():
    said = []
    keys = ["capture.answers={one = 'seven', two = 'seven', six = 'seven eight'}", "check=false"]
    extractor = Run(recipe.load("digits-fusion", keys), say=said.append).extractor(4)
    assert len(extractor.said.tokens) == 3
    assert said == [
        "answer 'seven eight' is 2 tokens; the first stands for it",
        "answers 'seven' and 'seven' begin with the same token, so they cannot be told apart (2 pairs in all)",
    ]
