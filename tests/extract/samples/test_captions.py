"""Images with captions: Flickr30k and COCO."""

import pytest

import layouts
from actstore_extract.samples import SamplesError
from sampling import ids, source


@pytest.mark.parametrize("gone", [(), ("flickr_annotations_30k.csv",)])
def test_flickr30k(tmp_path, gone):
    layouts.flickr30k(tmp_path)
    for name in gone:
        (tmp_path / name).unlink()
    found = source("flickr30k", path=tmp_path).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "1000092795.jpg",
        "captions": layouts.CAPTIONS,
        "split": "train",
        "image": "1000092795.jpg",
    }
    assert found.image("1000092795.jpg").size == (9, 7)
    assert ids(source("flickr30k", path=tmp_path, split="val").samples()) == ["1000092797.jpg"]
    with pytest.raises(SamplesError, match=r"has no split 'tests'; did you mean 'test'\? It has test, train, val"):
        source("flickr30k", path=tmp_path, split="tests").samples()


def test_flickr30k_as_first_published(tmp_path):
    layouts.flickr30k(tmp_path)
    (tmp_path / "flickr_annotations_30k.csv").unlink()
    (tmp_path / "dataset_flickr30k.json").unlink()
    found = source("flickr30k", path=tmp_path).samples().table
    assert found.height == 6
    assert found["captions"][5].to_list()[0] == "This is a one ."
    assert found["split"].null_count() == 6
    with pytest.raises(SamplesError, match=r"results_20130124.token has no splits; put flickr_annotations_30k.csv"):
        source("flickr30k", path=tmp_path, split="test").samples()
    with (tmp_path / "results_20130124.token").open("a") as file:
        file.write("1000092795.jpg A dog .\n")
    with pytest.raises(SamplesError, match=r"results_20130124.token:31: '1000092795.jpg A dog .' is no line such as"):
        source("flickr30k", path=tmp_path).samples()


def test_a_line_feed_alone_ends_a_caption(tmp_path):
    layouts.flickr30k(tmp_path)
    for name in ("flickr_annotations_30k.csv", "dataset_flickr30k.json"):
        (tmp_path / name).unlink()
    odd = "a dog\x85on grass\u2028by a tree\x0c ."
    (tmp_path / "results_20130124.token").write_text(f"1000092795.jpg#0\t{odd}\r\n1000092795.jpg#1\tA .\n", newline="")
    assert source("flickr30k", path=tmp_path).samples().table["captions"].to_list() == [[odd, "A ."]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,split\n1.jpg,test\n", "has no column 'raw'"),
        ('raw,split,filename\n"[""A dog",test,1.jpg\n', "row 1 is no image with its captions; perhaps the download"),
        ("raw,split,filename\n[3],test,1.jpg\n", "row 1 is no image with its captions"),
        ("raw,split,filename\n[],test\n", "row 1 is no image with its captions"),
        ("raw,split,filename\n", "has no captions"),
    ],
)
def test_flickr30k_with_a_file_of_another_form(tmp_path, text, message):
    (layouts.flickr30k(tmp_path) / "flickr_annotations_30k.csv").write_text(text)
    with pytest.raises(SamplesError, match=message):
        source("flickr30k", path=tmp_path).samples()


def test_coco(tmp_path):
    found = source("coco", path=layouts.coco(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "COCO_val2014_000000391895.jpg",
        "image_id": 391895,
        "captions": layouts.CAPTIONS,
        "split": "val2014",
        "image": "val2014/COCO_val2014_000000391895.jpg",
    }
    assert found.image("val2014/COCO_val2014_000000391895.jpg").size == (9, 7)
    test = source("coco", path=tmp_path, split="karpathy-test").samples().table
    assert test.row(0) == ("COCO_val2014_000000391898.jpg", 391898, layouts.CAPTIONS, "karpathy-test", test["image"][0])
    assert test["image"][0] == "val2014/COCO_val2014_000000391898.jpg"
    with pytest.raises(SamplesError, match=r"does not exist; did you mean 'val2014'\? There is val2014"):
        source("coco", path=tmp_path, split="val2015").samples()
    with pytest.raises(SamplesError, match="has no split 'tset'; did you mean 'test'?"):
        source("coco", path=tmp_path, split="karpathy-tset").samples()
