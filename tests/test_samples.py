import numpy as np
import polars as pl
import pytest
from PIL import Image

from actstore_extract import prompts, recipe
from actstore_extract.recipe import RecipeError
from actstore_extract.samples import SOURCES, SamplesError


def source(name, **keys):
    return SOURCES[name](source=name, **keys)


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for label, count in (("cat", 3), ("dog", 5)):
        (tmp_path / label).mkdir()
        for i in range(count):
            pixels = rng.integers(0, 255, (9, 7, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_digits():
    digits = source("digits")
    found = digits.samples()
    assert found.table.height == 1797
    assert found.table.row(0) == ("digit-0000", "zero", found.table["split"][0], "digit-0000")
    assert dict(found.table.group_by("split").len().iter_rows()) == {"train": 1148, "validation": 200, "test": 449}
    assert found.image("digit-0000").size == (8, 8)
    assert source("digits", split="test").samples().table.height == 449


def test_imagefolder(folder):
    found = source("imagefolder", path=folder).samples()
    assert found.table["sample_id"].to_list()[:4] == ["cat/0.png", "cat/1.png", "cat/2.png", "dog/0.png"]
    assert found.table["label"].to_list() == ["cat"] * 3 + ["dog"] * 5
    assert found.image("dog/1.png").size == (7, 9)


def test_imagefolder_draws_the_same_again_and_keeps_what_it_drew(folder):
    two = source("imagefolder", path=folder, per_class=2, seed=1).samples().table["sample_id"].to_list()
    again = source("imagefolder", path=folder, per_class=2, seed=1).samples().table["sample_id"].to_list()
    three = source("imagefolder", path=folder, per_class=3, seed=1).samples().table["sample_id"].to_list()
    assert two == again
    assert len(two) == 4
    assert set(two) <= set(three)


def test_imagefolder_of_some_classes(folder):
    assert source("imagefolder", path=folder, classes=["dog"]).samples().table["label"].unique().to_list() == ["dog"]
    with pytest.raises(SamplesError, match="has no class folder 'dgo'; did you mean 'dog'?"):
        source("imagefolder", path=folder, classes=["dgo"]).samples()


def test_a_missing_or_empty_folder_is_said(tmp_path):
    with pytest.raises(SamplesError, match="nowhere does not exist; set samples.path"):
        source("imagefolder", path=tmp_path / "nowhere").samples()
    with pytest.raises(SamplesError, match="holds no images"):
        source("imagefolder", path=tmp_path).samples()


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_table(folder, suffix):
    frame = pl.DataFrame({"image": ["cat/0.png", None], "prompt": ["<image>what?", "a dog"], "score": [1.5, 2.5]})
    path = folder / f"table.{suffix}"
    writers = {"csv": frame.write_csv, "parquet": frame.write_parquet, "jsonl": frame.write_ndjson}
    writers[suffix](path)
    found = source("table", path=path).samples()
    assert found.table["sample_id"].to_list() == ["row-000000", "row-000001"]
    assert found.table["score"].to_list() == [1.5, 2.5]
    assert found.image("cat/0.png").size == (7, 9)


def test_a_table_that_is_not_there_or_none(tmp_path):
    with pytest.raises(SamplesError, match="does not exist"):
        source("table", path=tmp_path / "x.csv").samples()
    with pytest.raises(SamplesError, match=r"is one of .parquet, .csv"):
        source("table", path=tmp_path / "x.xlsx").samples()
    (tmp_path / "bad.parquet").write_bytes(b"nonsense")
    with pytest.raises(SamplesError, match=r"bad.parquet: "):
        source("table", path=tmp_path / "bad.parquet").samples()


def test_prompts_take_columns_of_the_sample():
    made = recipe.load("digits-fusion", ["prompt.text='<image>is this {label}?'", "samples.limit=2"])
    planned = prompts.plan(made, made.samples.samples())
    assert planned["prompt"].to_list() == ["<image>is this zero?", "<image>is this one?"]
    assert planned["prompt_order"].to_list() == ["image-text"] * 2


def test_a_column_the_samples_do_not_have():
    made = recipe.load("digits-fusion", ["prompt.text='<image>is this {lable}?'"])
    with pytest.raises(RecipeError, match="have no column 'lable'; did you mean 'label'?"):
        prompts.plan(made, made.samples.samples())


def test_samples_without_prompt_need_one_in_the_recipe(folder):
    (folder / "t.csv").write_text("image\ncat/0.png\n")
    made = recipe.load("digits-fusion")
    made = made.model_copy(update={"prompt": recipe.PromptSection(), "samples": source("table", path=folder / "t.csv")})
    with pytest.raises(RecipeError, match=r"no column prompt: set \[prompt\] text"):
        prompts.plan(made, made.samples.samples())
