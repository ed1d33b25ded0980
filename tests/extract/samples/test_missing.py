"""What is missing of a published data set, and where to get it."""

import pytest

import layouts
from actstore_extract.pictures import PictureError
from actstore_extract.samples import SamplesError
from sampling import source

MISSING = {
    "flickr30k": ("flickr_annotations_30k.csv", r"has no flickr_annotations_30k.csv or dataset_flickr30k.json or"),
    "coco": ("annotations/captions_val2014.json", r"get it from COCO's annotations_trainval2014.zip"),
    "vqav2": ("v2_mscoco_val2014_annotations.json", r"get it from VQA v2's download page"),
    "llava": ("llava_v1_5_mix665k.json", r"get llava_v1_5_mix665k.json from LLaVA's releases"),
    "pope": ("coco_pope_popular.json", r"has no coco_pope_popular.json or .*get it from POPE's repository"),
    "gqa": ("testdev_balanced_questions.json", r"get it from GQA's download page"),
    "llava-bench": ("context.jsonl", r"get context.jsonl from liuhaotian/llava-bench-in-the-wild"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_file_that_is_missing_cut_or_another(tmp_path, name):
    path = layouts.LAYOUTS[name](tmp_path)
    file, message = MISSING[name]
    text = (tmp_path / file).read_text()
    (tmp_path / file).write_text(text[: len(text) // 2 + 7])
    with pytest.raises(SamplesError, match=f"{file}.*download was cut"):
        source(name, path=path).samples()
    if file.endswith("json"):
        (tmp_path / file).write_text('{"questions": 3}')
        with pytest.raises(SamplesError, match=f"{file} is not the file of"):
            source(name, path=path).samples()
    for other in [tmp_path / file, tmp_path / "dataset_flickr30k.json", tmp_path / "results_20130124.token"]:
        other.unlink(missing_ok=True)
    with pytest.raises(SamplesError, match=message):
        source(name, path=path).samples()


@pytest.mark.parametrize("name", ["imagenet", "flickr30k", "coco", "vqav2", "pope", "gqa", "mme", "llava-bench"])
def test_a_folder_that_is_missing(tmp_path, name):
    with pytest.raises(SamplesError, match=r"folder .*nowhere does not exist; set samples.path to "):
        source(name, path=tmp_path / "nowhere").samples()


def test_images_that_are_not_unpacked(tmp_path):
    (layouts.flickr30k(tmp_path) / "flickr30k-images").rename(tmp_path / "pictures")
    with pytest.raises(SamplesError, match="has no folder flickr30k-images: unpack flickr30k-images.zip there"):
        source("flickr30k", path=tmp_path).samples()


def test_an_image_that_is_named_but_absent_fails_when_it_is_opened(tmp_path):
    (layouts.coco(tmp_path) / "val2014" / "COCO_val2014_000000391896.jpg").unlink()
    found = source("coco", path=tmp_path).samples()
    assert found.table.height == 6
    with pytest.raises(PictureError, match="COCO_val2014_000000391896.jpg"):
        found.image("val2014/COCO_val2014_000000391896.jpg")
