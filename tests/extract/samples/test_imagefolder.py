"""A folder of images for each class."""

import polars as pl
import pytest

import layouts
from actstore_extract.samples import SamplesError
from sampling import source


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


def test_what_is_hidden_is_neither_class_nor_image_and_folders_below_belong_to_their_class(folder):
    hidden = (".ipynb_checkpoints/0.png", "__MACOSX/0.png", "@eaDir/0.png", "cat/._0.png", "cat/@eaDir/0.png")
    for name in (*hidden, "cat/deeper/down/0.png", "@home/0.png"):
        layouts.picture(folder / name)
    (folder / "@home" / "0.png").rename(folder / "@home" / "0.JFIF")
    table = source("imagefolder", path=folder).samples().table.filter(pl.col("label") != "dog")
    cats = [*(f"cat/{i}.png" for i in range(3)), "cat/deeper/down/0.png"]
    assert table["sample_id"].to_list() == ["@home/0.JFIF", *cats]
    assert table["label"].to_list() == ["@home", *["cat"] * 4]
    with pytest.raises(SamplesError, match="has no class folder '@eaDir'"):
        source("imagefolder", path=folder, classes=["@eaDir"]).samples()


def test_what_is_left_out_is_counted(folder):
    for name in ("cat/notes.txt", "cat/a.TXT", "dog/film.mp4", "dog/below/README", "LICENSE.txt", ".DS_Store"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    layouts.picture(folder / "loose.png")
    notes = source("imagefolder", path=folder, per_class=1).samples().notes
    assert notes == (
        f"{folder}: 5 files are no images by their names and are left out: 3 .txt, 1 no suffix, 1 .mp4",
        f"{folder}: 1 images lie in no class folder and are left out, loose.png among them",
    )
    of_dogs = source("imagefolder", path=folder, classes=["dog"]).samples().notes[0]
    assert of_dogs.endswith(": 1 no suffix, 1 .mp4, 1 .txt")
    for image in folder.rglob("*/*.png"):
        image.unlink()
    with pytest.raises(SamplesError, match=r"holds no images; expected .*/CLASS/\*\.jpg \(.*3 \.txt"):
        source("imagefolder", path=folder).samples()


def test_a_missing_or_empty_folder_is_said(tmp_path):
    with pytest.raises(SamplesError, match="nowhere does not exist; set samples.path"):
        source("imagefolder", path=tmp_path / "nowhere").samples()
    with pytest.raises(SamplesError, match="holds no images"):
        source("imagefolder", path=tmp_path).samples()
