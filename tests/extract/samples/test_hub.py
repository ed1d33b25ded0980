"""Data sets of the hub."""

import gzip
import io
import json
import os

import polars as pl
import pytest
from PIL import Image

from actstore_extract.pictures import PictureError
from actstore_extract.samples import SamplesError
from sampling import source


@pytest.fixture
def hub(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    columns = {
        "img": [Image.new("RGB", (4, 3), (i, 0, 0)) for i in range(3)],
        "Answer Type": ["a", "b", None],
        "answers": [["x"], ["y", "z"], []],
        "thumb": [Image.new("RGB", (1, 1))] * 3,
        "kind": [1, 0, -1],
    }
    kinds = {
        "img": datasets.Image(),
        "Answer Type": datasets.Value("string"),
        "answers": datasets.Sequence(datasets.Value("string")),
        "thumb": datasets.Image(mode="LA"),
        "kind": datasets.ClassLabel(names=["cat", "dog"]),
    }
    (tmp_path / "data").mkdir()
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    made.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    return str(tmp_path / "data")


def test_hub(hub):
    found = source("hub", path=hub, split="test", image="img").samples()
    assert found.table.rows() == [
        ("row-000000", "a", ["x"], "dog", "0"),
        ("row-000001", "b", ["y", "z"], "cat", "1"),
        ("row-000002", None, [], None, "2"),  # -1 is no label
    ]
    assert found.table.columns == ["sample_id", "answer_type", "answers", "kind", "image"]
    assert found.image("2").getpixel((0, 0)) == (2, 0, 0)
    thumb = source("hub", path=hub, split="test", image="thumb").samples().image("1")
    assert (thumb.mode, thumb.getpixel((0, 0))) == ("RGB", (0, 0, 0))  # of the data set's own mode LA
    text = source("hub", path=hub, split="test", image="", columns=["answers"], shuffle=0).samples().table
    assert text.columns == ["sample_id", "answers", "image"]
    assert text["image"].null_count() == 3


def test_lists_of_pictures_and_several_columns(hub, tmp_path):
    import datasets

    def grey(value):
        return Image.new("RGB", (2, 2), (value,) * 3)

    columns = {"frames": [[grey(1), grey(2)], [grey(3)], []], "a": [grey(4)] * 3, "b": [grey(5)] * 3, "x": [1, 2, 3]}
    one = datasets.Image()
    kinds = datasets.Features({"frames": datasets.List(one), "a": one, "b": one, "x": datasets.Value("int64")})
    (tmp_path / "many").mkdir()
    datasets.Dataset.from_dict(columns, features=kinds).to_parquet(
        str(tmp_path / "many" / "test-00000-of-00001.parquet")
    )
    where = {"path": str(tmp_path / "many"), "split": "test"}
    found = source("hub", image="frames", **where).samples()
    assert found.table.columns == ["sample_id", "x", "image"]
    assert found.table["image"].to_list() == [["0/0", "0/1"], ["1/0"], None]
    assert [found.image(name).getpixel((0, 0))[0] for name in ("0/0", "0/1", "1/0")] == [1, 2, 3]
    for keys in ({"image": ["a", "b"]}, {"columns": {"image": ["a", "b"]}}):
        found = source("hub", **keys, **where).samples()
        assert found.table["image"].to_list()[1] == ["1/0", "1/1"]
        assert [found.image(name).getpixel((0, 0))[0] for name in ("1/0", "1/1")] == [4, 5]
    assert source("hub", image="a", **where).samples().table.columns == ["sample_id", "x", "image"]


def test_classes_are_named_in_lists_and_structs_too(hub, tmp_path):
    import datasets

    kind = datasets.ClassLabel(names=["cat", "dog"])
    columns = {"x": [[0, 1], [], None], "objects": [[{"at": 3, "what": 1}], [], [{"at": 4, "what": None}]]}
    kinds = {"x": datasets.List(kind), "objects": datasets.List({"at": datasets.Value("int64"), "what": kind})}
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    (tmp_path / "nested").mkdir()
    made.to_parquet(str(tmp_path / "nested" / "test-00000-of-00001.parquet"))
    found = source("hub", path=str(tmp_path / "nested"), split="test", image="").samples().table
    assert found["x"].to_list() == [["cat", "dog"], [], None]
    assert found["objects"].to_list() == [[{"at": 3, "what": "dog"}], [], [{"at": 4, "what": None}]]


def test_files_as_bytes_are_pictures(hub, tmp_path):
    """As tables are that no data set of pictures was made of: MMBench's mirrors, pandas' to_parquet."""
    files = []
    for value in (1, 2):
        file = io.BytesIO()
        Image.new("RGB", (2, 2), (value, 0, 0)).save(file, "PNG")
        files.append(file.getvalue())
    (tmp_path / "bytes").mkdir()
    rows = pl.DataFrame({"image": [*files, None], "image_id": [7, 7, 8]})
    rows.write_parquet(tmp_path / "bytes" / "test-00000-of-00001.parquet")
    found = source("hub", path=str(tmp_path / "bytes"), split="test").samples()
    assert [found.image(name).getpixel((0, 0)) for name in "01"] == [(1, 0, 0), (2, 0, 0)]
    with pytest.raises(PictureError, match="row 2 of .* has no picture in its column image"):
        found.image("2")
    assert found.table["image_id"].to_list() == [7, 7, 8]  # which tells pictures apart that the hub does not name


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "tst"}, "split tst: .*; did you mean 'test'?"),
        (
            {"image": "imgg"},
            r"has no column 'imgg'; did you mean 'img'\?; pictures are in img, thumb: set samples.image",
        ),
        (
            {"image": "Answer Type"},
            r"'Answer Type' of .* holds string, no pictures; pictures are in img, thumb: .*names of files are of",
        ),
        ({"image": "kind"}, "column 'kind' of .* holds int64, no pictures; pictures are in img, thumb"),
        ({"columns": ["answer"]}, "has no column 'answer'; did you mean 'answers'?"),
        ({"path": "nobody/nothing-of-this-name"}, "data set nobody/nothing-of-this-name, split test: "),
    ],
)
def test_hub_says_what_is_not_there(hub, keys, message):
    with pytest.raises(SamplesError, match=message):
        source("hub", **{"path": hub, "split": "test", "image": "img", **keys}).samples()


def test_hub_names_columns(hub):
    """Any may be the id, the image or the label, by the name that the data set has for it."""
    found = source("hub", path=hub, split="test", columns={"label": "Answer Type", "image": "thumb"}).samples()
    assert found.table.columns == ["sample_id", "label", "answers", "kind", "image"]
    assert found.image("1").size == (1, 1)


def test_hub_of_images_alone(hub, tmp_path):
    found = source("hub", path=hub, split="test", image="img", columns=[]).samples()
    assert found.table.rows() == [("row-000000", "0"), ("row-000001", "1"), ("row-000002", "2")]
    assert found.image("1").getpixel((0, 0)) == (1, 0, 0)


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_hub_reads_a_folder_as_it_is_now(hub, tmp_path, ending):
    """A file of another content and the same time of change, as archives and copies leave it, is read anew."""
    folder = tmp_path / "lines"
    folder.mkdir()
    file = folder / f"train.{ending}"
    for label in ("cat", "dog"):
        line = json.dumps({"label": label}).encode()
        file.write_bytes(gzip.compress(line, mtime=0) if ending.endswith("gz") else line)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        found = source("hub", path=str(folder), split="train", image="", columns=["label"]).samples()
        assert found.table["label"].to_list() == [label]
