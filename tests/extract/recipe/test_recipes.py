"""Every recipe that ships: it parses, says what its paper asked, and runs on a tiny model of its family."""

import tomllib
from functools import cache

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

import actstore
import layouts
import tiny
from actstore.format.plan import prepare
from actstore_extract.families import Prompt
from actstore_extract.interventions.conditions import crossed, expand
from actstore_extract.recipe import prompts, recipe
from actstore_extract.recipe.needs import Needs, needs
from actstore_extract.recipe.shelf import shipped
from actstore_extract.roles import parse_role, positions
from actstore_extract.run.command import recipes
from actstore_extract.run.extractor import Extractor
from actstore_extract.samples.synsets import papers

EXPERIMENTS = [
    "coco-captions",
    "flickr30k-captions",
    "knockout-coco-captions",
    "knockout-flickr30k-captions",
    "knockout-overlap",
    "knockout-vqa",
    "knockout-windows",
    "modality-gap",
    "overlap",
    "patching",
    "replay",
    "vqa",
]
DIGITS = [
    "digits-fusion",
    "digits-fusion-knockout",
    "digits-fusion-patch",
    "digits-fusion-replay",
    "digits-gated",
    "digits-gated-knockout",
    "digits-gated-patch",
    "digits-gated-replay",
    "digits-gated-steer",
    "digits-mapped",
]
REAL = ["capitals", "dictionary", "openmoji", "openmoji-knockout", "openmoji-patch"]
MAPPED = ["gqa", "llava-bench", "mme", "pope", "sae"]
COMPOSED = [name for name in shipped() if "/" in name]
RUN = [name for name in COMPOSED if name.partition("/")[0] in tiny.OF_RECIPES]  # PaliGemma's has a file of its own
FAR = {"at-32", "at-1025"}  # positions that a tiny image does not reach

CAPTIONS = "".join(layouts.CAPTIONS)
SHORT = "What is this?\nAnswer the question using a single word or phrase."
CAPTION = "Provide a one-sentence caption for the provided image."
QUESTION = "<start_of_turn>user\n{}What is this?<end_of_turn>\n<start_of_turn>model\n"
DOG = "Is there a dog in this image?\nAnswer the question using a single word or phrase."
# The prompts of the papers, filled in: what a sample of each recipe is asked.
ASKED = {
    "chameleon-7b/modality-gap": [f"<image> {CAPTIONS}", f"{CAPTIONS} <image>"],
    "chameleon-7b/overlap": ["<image> This animal is a"],
    "chameleon-7b/vqa": [f"<image>{SHORT} Answer:"],
    "chameleon-7b/coco-captions": [f"<image>{CAPTION}"],
    "chameleon-34b/overlap": [
        "<image> Answer the question using a single word, number, or short phrase. This animal is a"
    ],
    "emu3/overlap": ["<image> This animal is a"],
    "emu3/vqa": [f"USER: <image>{SHORT} ASSISTANT:"],
    "emu3/coco-captions": ["USER: <image>Describe this picture briefly ASSISTANT:"],
    "janus-1.3b/vqa": [f"USER: <image>{SHORT} ASSISTANT:"],
    "janus-1.3b/flickr30k-captions": [f"USER: <image>{CAPTION} ASSISTANT:"],
    "llava-onevision-7b/modality-gap": [
        f"<|im_start|><image><|im_end|> {CAPTIONS}",
        f"{CAPTIONS} <|im_start|><image><|im_end|>",
    ],
    "llava-onevision-7b/overlap": ["<|im_start|><image><|im_end|> This animal is a"],
    "llava-onevision-7b/vqa": [f"<|im_start|><image><|im_end|>{SHORT} Answer:"],
    "llava-onevision-7b/coco-captions": [f"USER: <|im_start|><image><|im_end|>{CAPTION} ASSISTANT:"],
    "pixtral-12b/vqa": [
        '[INST]<image>What is this?"\nAnswer the question using a single word or phrase."[/INST]',
    ],
    "pixtral-12b/coco-captions": [f'[INST]"<image>{CAPTION}"[/INST]'],
    "clip-gemma-2-2b/gqa": [
        "<image>" + QUESTION.format("").replace("this?", "this?\nAnswer the question using a single word or phrase.")
    ],
    "clip-gemma-2-2b/mme": ["<image>" + QUESTION.format("").replace("What is this?", DOG)],
    "clip-gemma-2-2b/llava-bench": ["<image>" + QUESTION.format("")],
    "clip-gemma-2-2b/sae": [
        "<image>" + QUESTION.format(""),
        QUESTION.format("Consider the following information: This is a one. "),
    ],
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Each data set, small; ImageNet with all classes of the paper."""
    root = tmp_path_factory.mktemp("data")
    paths = {name: make(root / name) for name, make in layouts.LAYOUTS.items() if name != "imagenet"}
    return paths | {"imagenet": layouts.imagenet(root / "imagenet", sorted(papers().wnids.values()), 1)}


@pytest.fixture
def planned(data, tmp_path, monkeypatch):
    """A shipped recipe over the small data, and its plan."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    layouts.openmoji()
    layouts.gcide()

    def plan(name):
        source = recipe.load(name).samples.source
        made = recipe.load(name, [f"samples.path='{data[source]}'"] if source in data else [])
        samples = made.samples.samples()
        return made, prompts.plan(made, samples), samples

    return plan


@cache
def model(name):
    return tiny.model(tiny.OF_RECIPES[name.partition("/")[0]])


def test_every_experiment_of_every_model_ships():
    mapped = [f"clip-gemma-2-2b/{what}" for what in MAPPED] + ["paligemma2-3b/sae"]
    mapped += [f"llava-1.5-7b/{what}" for what in MAPPED if what != "sae"]
    others = [name for name in tiny.OF_RECIPES if name not in [one.partition("/")[0] for one in mapped]]
    assert sorted(shipped()) == sorted(
        [*DIGITS, *REAL, *mapped, *(f"{name}/{what}" for name in others for what in EXPERIMENTS)]
    )


@pytest.mark.parametrize("name", shipped())
def test_what_show_prints_is_the_recipe(name, tmp_path):
    printed = CliRunner().invoke(recipes, ["show", name], catch_exceptions=False).output
    (tmp_path / "mine.toml").write_text(printed)
    found, copied = recipe.load(name), recipe.load(str(tmp_path / "mine.toml"))
    assert copied == found.model_copy(update={"name": "mine"})
    assert found.name == name
    assert all(len(line) <= 120 for line in printed.splitlines() if line.startswith("#"))
    assert set(tomllib.loads(printed)) <= {"about", "seed", "conditions", "model", "samples", "prompt", "capture"}


@pytest.mark.parametrize("name", shipped())
def test_the_plan_of_a_small_data_set(planned, name):
    made, table, samples = planned(name)
    store = prepare(table)
    orders = made.prompt.text if isinstance(made.prompt.text, dict) else [table["prompt_order"][0]]
    assert table["prompt_order"].unique(maintain_order=True).to_list() == list(orders)
    assert store.height == samples.table.height * len(orders) > 0
    asked = table["prompt"].head(len(orders)).to_list()
    assert sorted(asked) == sorted(ASKED.get(name, asked))


def test_the_prompts_above_are_of_recipes_that_ship():
    assert set(ASKED) < set(COMPOSED)


@pytest.mark.parametrize("name", RUN)
def test_the_roles_exist_in_a_tiny_model_of_the_family(planned, name):
    made, table, _ = planned(name)
    for row in table.head(2).iter_rows(named=True):
        image = tiny.image() if row["image"] else None
        layout = model(name).encode(Prompt(row["sample_id"], row["prompt"], image)).layout
        missing = [
            role
            for role in (*made.capture.roles, *made.capture.attention)
            if positions(parse_role(role), layout, seed=0, sample_id="s") is None
        ]
        expected = {"image"} if row["prompt_order"] == "text" else FAR
        assert set(missing) <= expected, layout


PARTS = [list(dict.fromkeys(parts)) for parts in zip(*(name.split("/") for name in RUN), strict=True)]


def in_turn(name):
    """Whether the usual suite runs it: each experiment on two systems of six, each system with four experiments."""
    return sum(all_of.index(part) for all_of, part in zip(PARTS, name.split("/"), strict=True)) % 3 == 0


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if in_turn(name) else pytest.mark.slow) for name in RUN])
def test_a_recipe_runs_on_a_tiny_model_of_the_family(planned, name, tmp_path):
    made, table, _ = planned(name)
    answers = ["one", "two"] if made.capture.answers else []  # the words of tiny tokenizers
    changes = {"max_new_tokens": min(made.capture.max_new_tokens, 2), "answers": answers}
    few = made.capture.model_copy(update=changes)
    tested = model(name)
    conditions = expand(made.conditions, n_layers=tested.n_layers, seed=0).values()
    asked = table if any(one.patch for one in conditions) else table.head(2)
    made, table = made.model_copy(update={"capture": few}), prepare(crossed(asked, conditions, block=32))
    layers = range(tested.n_layers + 1) if few.layers == "all" else [tested.n_layers]
    blocks = range(tested.n_layers) if few.kv else ()
    options = {"layers": layers, "kv_blocks": blocks, "dtype": "float32", "batch_size": 8, "asked": asked}
    found = Extractor(tested, made, lambda _: tiny.image(), **options).content(table)
    kept = {"layers": layers, "blocks": blocks, "d_model": tested.d_model, "dtype": "float32"}
    store = actstore.create(tmp_path / "s", plan=table, **kept)
    kinds = ("samples", "rows", "residual", "keys", "values", "attention")
    store.write(0, **{kind: getattr(found, kind) for kind in kinds})
    store = actstore.open(tmp_path / "s")
    said = store.sql("from samples")
    assert said["status"].to_list() == ["ok"] * table.height, said["error"].to_list()
    assert set(store.roles) == set(made.capture.roles) - FAR
    assert store.kv == made.capture.kv
    assert said["generated_text"].null_count() == (0 if few.max_new_tokens else said.height)
    for key in set(made.capture.attention) - FAR:
        columns = store.attention(key, layer=1).values
        assert columns.shape[:2] == (2, 1)
        assert ((columns >= 0) & (columns <= 1)).any()
        assert np.isnan(store.attention(key, layer=tested.n_layers).values).all()
    if few.mass:
        mass, samples = store.attention("mass", layer=1)
        assert mass.shape[1] == samples["eoi"].fill_null(samples["image_end"]).max() + 1


def test_sizes_are_those_of_the_papers():
    sizes = {name: (shipped()[name].facts["layers"], shipped()[name].facts["width"]) for name in COMPOSED}
    assert {name.partition("/")[0]: size for name, size in sizes.items()} == {
        "chameleon-7b": (32, 4096),
        "chameleon-34b": (48, 8192),
        "clip-gemma-2-2b": (26, 2304),
        "emu3": (32, 4096),
        "janus-1.3b": (24, 2048),
        "llava-1.5-7b": (32, 4096),
        "llava-onevision-7b": (28, 3584),
        "paligemma2-3b": (26, 2304),
        "pixtral-12b": (40, 5120),
    }


def test_needs():
    gap = needs(recipe.load("chameleon-7b/modality-gap"))
    tokens = 16 * (1024 + 75)
    assert gap == Needs(20_000, 2 * (7e9 + tokens * 24 * 4096) / 1e9, 20_000 * 2 * 33 * 4096 * 2 / 1e9)
    halved = needs(recipe.load("chameleon-7b/modality-gap", ["samples.limit=100", "capture.layers=[0, 32]"]))
    assert halved.store_gb == pytest.approx(200 * 2 * 2 * 4096 * 2 / 1e9)
    sae = needs(recipe.load("clip-gemma-2-2b/sae"))
    assert sae.store_gb == pytest.approx(5000 * (256 + 60 + 60) * 27 * 2304 * 2 / 1e9)
    overlap = needs(recipe.load("chameleon-7b/overlap"))
    kept = 5 * 33 * 4096 + (3 * 5 + 1024) * 33
    assert overlap.store_gb == pytest.approx(10_000 * kept * 2 / 1e9)
    knockout = needs(recipe.load("chameleon-7b/knockout-overlap"))
    # As it is; windows of 4, 8, ... 32 of two keys; three others in all blocks; three draws.
    assert knockout.samples == 10_000 * (1 + 8 + 8 + 3 + 3)
    assert knockout.store_gb == pytest.approx(knockout.samples * 4096 * 2 / 1e9)
    assert needs(recipe.load("chameleon-7b/patching")).samples == 2000 + (33 + 32) * 1000
    assert needs(recipe.load("digits-fusion")) is None


@pytest.mark.parametrize("name", [name for name in COMPOSED if "/knockout-" in name and "windows" not in name])
def test_the_table_of_knockouts_has_the_same_controls_in_all_its_columns(name):
    run = recipe.load(name)
    names = {one.name for one in run.conditions}
    assert names >= {"eoi-knockout", "image-knockout", "image-image-knockout", "random-image-10-knockout"}


def test_the_list():
    listed = CliRunner().invoke(recipes, ["--format", "csv"], catch_exceptions=False).output.splitlines()
    assert listed[0] == "name,weights,data,extra,samples,gpu_gb,store_gb,about"
    assert "chameleon-7b/modality-gap,facebook/chameleon-7b,flickr30k,,20000,17.5,10.8," in "\n".join(listed)
    extras = {line.split("/")[0] for line in listed if ",vision," in line}
    assert extras == {"llava-onevision-7b", "pixtral-12b"}
    assert len(listed) == 1 + len(shipped())


def test_the_words_of_the_authors(tmp_path):
    """A table for each tokenizer that they have words for; others are refused."""
    for name, jaguar in (("chameleon-7b", " Jaguar"), ("chameleon-34b", " Jaguar"), ("emu3", " jag")):
        found = recipe.load(f"{name}/patching", ["capture.answers=narrow-gate"]).capture.answers
        assert found["jaguar"] == jaguar
        assert [*found] == [name for pair in papers().pairs for name in pair]
        assert len({*found.values()}) == 20
    for name in ("pixtral-12b", "janus-1.3b", "llava-onevision-7b"):
        with pytest.raises(recipe.RecipeError, match=f"words for chameleon and emu3 alone, and this is {name}"):
            recipe.load(f"{name}/patching", ["capture.answers=narrow-gate"])
    (tmp_path / "mine.toml").write_text(shipped()["chameleon-7b/patching"].text)
    of_mine = ["capture.answers=narrow-gate", "model.path=/data/mine"]
    with pytest.raises(recipe.RecipeError, match="this is /data/mine; list words yourself"):
        recipe.load(str(tmp_path / "mine.toml"), of_mine)
    mine = recipe.load(str(tmp_path / "mine.toml"), [*of_mine, "model.family=chameleon"])
    assert mine.capture.answers["trilobite"] == " fossil"


def test_an_unknown_name_shows_the_nearest():
    result = CliRunner().invoke(recipes, ["show", "chameleon-7b/overlop"])
    assert "did you mean 'chameleon-7b/overlap'?" in str(result.exception)


@pytest.mark.parametrize("name", ["digits-gated-knockout", "capitals", "openmoji", *COMPOSED[::9]])
def test_show_gives_the_recipe_of_a_store_again(name, tmp_path):
    """What a store was made by is a recipe again, word for word what its run card has, under the same name."""
    made_by = recipe.load(name, ["seed=3", "samples.limit=7"])
    plan = pl.DataFrame({"sample_id": ["a"]})
    actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2, run={"recipe": made_by.record()})
    printed = CliRunner().invoke(recipes, ["show", str(tmp_path / "s")], catch_exceptions=False).output
    (tmp_path / "again.toml").write_text(printed)
    assert recipe.load(str(tmp_path / "again.toml")).record() == made_by.record()


def test_show_writes_keys_of_any_name_and_says_what_it_cannot(tmp_path):
    made_by = recipe.load("digits-fusion", ['capture.answers={"New York"="New", zero="0"}'])
    assert '"New York" = "New"' in recipe.text_of(made_by)
    odd = recipe.load("digits-fusion", ["prompt.chat=true"])
    odd.prompt.chat_options["deep"] = {"a": None}
    with pytest.raises(recipe.RecipeError, match="'digits-fusion' has values that no TOML holds"):
        recipe.text_of(odd)
    actstore.create(tmp_path / "s", plan=pl.DataFrame({"sample_id": ["a"]}), layers=[0], d_model=2)
    result = CliRunner().invoke(recipes, ["show", str(tmp_path / "s")])
    assert "it was not made by actstore extract" in str(result.exception)
