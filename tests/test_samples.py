import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import layouts
from actstore_extract.samples import SOURCES, SamplesError
from actstore_extract.samples.synsets import WNID, papers


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


def ids(found):
    return found.table["sample_id"].to_list()


def test_a_shuffle_is_the_same_everywhere_and_a_larger_limit_only_adds():
    assert ids(source("digits", shuffle=1, limit=3).samples()) == ["digit-1622", "digit-1601", "digit-0040"]
    assert ids(source("digits", shuffle=1, limit=99).samples())[:3] == ["digit-1622", "digit-1601", "digit-0040"]
    assert ids(source("digits", shuffle=2, limit=3).samples()) != ["digit-1622", "digit-1601", "digit-0040"]
    whole = source("digits", shuffle=1).samples().table
    assert whole.sort("sample_id").equals(source("digits").samples().table)


def test_a_shuffle_survives_new_samples(folder):
    before = ids(source("imagefolder", path=folder, shuffle=3).samples())
    layouts.picture(folder / "eel" / "0.png")
    after = ids(source("imagefolder", path=folder, shuffle=3).samples())
    assert [name for name in after if name != "eel/0.png"] == before


def test_resize_makes_squares(folder):
    assert source("imagefolder", path=folder, resize=4).samples().image("dog/1.png").size == (4, 4)
    with Image.open(folder / "dog" / "1.png") as image:
        image.quantize(4).save(folder / "dog" / "p.png")
    assert source("imagefolder", path=folder, resize=4).samples().image("dog/p.png").mode == "RGBA"


def test_the_papers_classes():
    animals, pairs, wnids = papers()
    assert len(set(animals)) == 100
    assert len({name for pair in pairs for name in pair}) == 20
    assert set(wnids) == {*animals, *(name for pair in pairs for name in pair)}
    assert len(set(wnids.values())) == len(wnids)
    assert all(WNID.fullmatch(wnid) for wnid in wnids.values())
    assert (wnids["kelpie"], wnids["german_short-haired_pointer"]) == ("n02105412", "n02100236")


def test_imagenet_labels_are_synsets(tmp_path):
    found = source("imagenet", path=layouts.imagenet(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "n02085936/n02085936_10.JPEG",
        "label": "maltese_dog",
        "wnid": "n02085936",
        "image": "n02085936/n02085936_10.JPEG",
    }
    assert found.table["label"].unique(maintain_order=True).to_list() == ["maltese_dog", "beagle", "arabian_camel"]
    assert found.image("n02088364/n02088364_11.JPEG").size == (9, 7)


def test_imagenet_as_kaggle_ships_it(tmp_path):
    layouts.imagenet(tmp_path / "ILSVRC/Data/CLS-LOC/train", ["n01440764", "n02012849", "n03126707", "n02088364"], 1)
    lines = [
        "n01440764 tench, Tinca tinca",
        "n02012849 crane",
        "n02086240 Shih-Tzu",
        "n02088364 beagle",
        "n03126707 crane",
    ]
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    found = source("imagenet", path=tmp_path).samples().table
    assert found["label"].to_list() == ["tench", "crane.n02012849", "beagle", "crane.n03126707"]
    one = source("imagenet", path=tmp_path, classes=["crane.n03126707", "n02012849"]).samples().table
    assert one["wnid"].to_list() == ["n02012849", "n03126707"]
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join([*lines, "beagle"]))
    with pytest.raises(SamplesError, match=r"LOC_synset_mapping.txt:6: 'beagle' is no line such as"):
        source("imagenet", path=tmp_path).samples()


def test_imagenet_with_words_txt(tmp_path):
    layouts.imagenet(tmp_path / "train", ["n01443537", "n02088364"], 1)
    names = "n00004475\torganism, being\nn01443537\tgoldfish, Carassius auratus\nn02088364\tbeagle hound\n"
    (tmp_path / "words.txt").write_text(names)
    # the paper's name of a class wins, so that its choice of classes finds it
    assert source("imagenet", path=tmp_path / "train").samples().table["label"].to_list() == ["goldfish", "beagle"]


def test_imagenet_folders_may_have_names(tmp_path):
    layouts.imagenet(tmp_path, ["beagle.n.01", "Maltese dog", "zebra"], 1)
    found = source("imagenet", path=tmp_path).samples().table
    assert found.select("label", "wnid").rows() == [
        ("maltese_dog", "n02085936"),
        ("beagle", "n02088364"),
        ("zebra", None),
    ]
    assert ids(source("imagenet", path=tmp_path, classes=["Beagle"]).samples()) == ["beagle.n.01/beagle.n.01_10.JPEG"]


def test_imagenet_draws_from_the_papers_classes(tmp_path):
    layouts.imagenet(tmp_path, sorted(papers().wnids.values()), 4)
    two = source("imagenet", path=tmp_path, classes="narrow-gate", per_class=2).samples().table
    three = source("imagenet", path=tmp_path, classes="narrow-gate", per_class=3).samples().table
    assert set(two["label"].unique()) == set(papers().animals)
    assert (two.height, three.height) == (200, 300)
    assert set(two["sample_id"]) < set(three["sample_id"])
    pairs = source("imagenet", path=tmp_path, classes="narrow-gate-pairs", per_class=1).samples().table
    assert sorted(pairs.filter(pair=0)["label"]) == ["american_alligator", "arabian_camel"]
    assert sorted(pairs["pair"]) == sorted([*range(10), *range(10)])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"classes": ["beegle"]}, "no class folder for 'beegle'; did you mean 'beagle'?"),
        ({"classes": "narrow-gate"}, r"no class folder for 'staffordshire_bullterrier' \(n02093256\)"),
        ({"classes": ["zebra"]}, "no class folder for 'zebra'; put LOC_synset_mapping.txt, which Kaggle's ImageNet"),
        ({}, "n01440764: no name for this class; put LOC_synset_mapping.txt"),
    ],
)
def test_imagenet_says_which_class_is_missing(tmp_path, keys, message):
    layouts.imagenet(tmp_path, ["n02088364", "n01440764"], 1)
    (tmp_path / "n01440764").rename(tmp_path / "n09999999")
    with pytest.raises(SamplesError, match=message.replace("n01440764", "n09999999")):
        source("imagenet", path=tmp_path, **keys).samples()


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
    with pytest.raises(SamplesError, match=r"has no split 'tests'; did you mean 'test'\?; it has test, train, val"):
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
    with pytest.raises(SamplesError, match=r"does not exist; did you mean 'val2014'\?; there is val2014"):
        source("coco", path=tmp_path, split="val2015").samples()
    with pytest.raises(SamplesError, match="has no split 'tset'; did you mean 'test'?"):
        source("coco", path=tmp_path, split="karpathy-tset").samples()


def test_vqav2(tmp_path):
    found = source("vqav2", path=layouts.vqav2(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "262148000",
        "question_id": 262148000,
        "image_id": 262148,
        "question": "What is this?",
        "image": "val2014/COCO_val2014_000000262148.jpg",
        "answers": ["dog"] * 9 + ["cat"],
        "answer": "dog",
        "answer_type": "other",
        "question_type": "what is",
    }
    assert found.image(found.table["image"][0]).size == (9, 7)
    test = source("vqav2", path=tmp_path, split="test2015").samples()
    assert "answers" not in test.table.columns
    assert test.image("test2015/COCO_test2015_000000262144.jpg").size == (9, 7)


def test_llava(tmp_path):
    found = source("llava", path=layouts.llava(tmp_path)).samples()
    assert found.table.height == 6
    assert found.table.row(1, named=True) == {
        "sample_id": "000002/000000033471",
        "conversation_id": "000000033471",
        "question": "Is this a one?",
        "answer": "This is a one.",
        "turns": 4,
        "image": "coco/train2017/000000033471.jpg",
    }
    assert found.image("coco/train2017/000000033471.jpg").size == (9, 7)
    elsewhere = source("llava", path=tmp_path / "llava_v1_5_mix665k.json", images=tmp_path / "coco").samples()
    assert elsewhere.image("train2017/000000033471.jpg").size == (9, 7)


def test_pope(tmp_path):
    found = source("pope", path=layouts.pope(tmp_path)).samples()
    assert found.table["split"].to_list() == ["random"] * 2 + ["popular"] * 2 + ["adversarial"] * 2
    assert found.table.row(3, named=True) == {
        "sample_id": "popular/2",
        "image": "COCO_val2014_000000310197.jpg",
        "question": "Is there a popular dog?",
        "label": "no",
        "split": "popular",
    }
    assert found.image("COCO_val2014_000000310197.jpg").size == (9, 7)
    assert source("pope", path=tmp_path, split="random", images=tmp_path / "val2014").samples().table.height == 2


def test_gqa(tmp_path):
    found = source("gqa", path=layouts.gqa(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "201380000",
        "image": "images/n161313.jpg",
        "question": "What is this?",
        "answer": "dog",
        "question_type": "query",
        "semantic_type": "rel",
    }
    assert found.image("images/n161313.jpg").size == (9, 7)


def test_mme(tmp_path):
    found = source("mme", path=layouts.mme(tmp_path)).samples()
    assert found.table.height == 6
    assert found.table.row(1, named=True) == {
        "sample_id": "existence/000000006040/2",
        "image": "existence/000000006040.jpg",
        "question": "Is there a cat in this image? Please answer yes or no.",
        "label": "no",
        "split": "existence",
    }
    assert found.table.row(5)[:3] == ("code_reasoning/0001/2", "code_reasoning/images/0001.png", "Is it C?")
    assert found.image("code_reasoning/images/0001.png").size == (9, 7)


@pytest.mark.parametrize("text", ["Is it?\tYes\n", "Is it?\tYes\nIs it?\tMaybe\n", "Is it? Yes\nIs it? No\n"])
def test_mme_has_two_questions_about_an_image(tmp_path, text):
    (layouts.mme(tmp_path) / "existence" / "000000007816.txt").write_text(text)
    with pytest.raises(SamplesError, match=r"000000007816.txt is not of MME's release .*: it has two lines"):
        source("mme", path=tmp_path).samples()


def test_mme_without_images_or_tasks(tmp_path):
    (layouts.mme(tmp_path / "mme") / "existence" / "000000007816.jpg").unlink()
    with pytest.raises(SamplesError, match=r"000000007816.txt has no image"):
        source("mme", path=tmp_path / "mme").samples()
    with pytest.raises(SamplesError, match="has none of the tasks existence"):
        source("mme", path=tmp_path).samples()


def test_llava_bench(tmp_path):
    found = source("llava-bench", path=layouts.llava_bench(tmp_path)).samples()
    assert found.table.row(2, named=True) == {
        "sample_id": "2",
        "image": "002.jpg",
        "question": "What is this?",
        "answer": "Answer 2.",
        "context": "This is 002.jpg.",
        "split": "complex",
    }
    assert found.image("002.jpg").size == (9, 7)
    lines = (tmp_path / "answers_gpt4.jsonl").read_text().splitlines()
    (tmp_path / "answers_gpt4.jsonl").write_text(lines[0])
    with pytest.raises(SamplesError, match=r"answers_gpt4.jsonl lacks question 1"):
        source("llava-bench", path=tmp_path).samples()


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
    with pytest.raises(OSError, match="COCO_val2014_000000391896.jpg"):
        found.image("val2014/COCO_val2014_000000391896.jpg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": []}, r"conversation 0 is not of LLaVA's releases .*: IndexError"),
        ({"conversations": [{"role": "user"}]}, r"conversation 0 is not of LLaVA's releases .*: KeyError: 'from'"),
        ({"image": None}, "has no conversation about an image"),
    ],
)
def test_llava_says_which_conversation_is_not_as_it_should_be(tmp_path, change, message):
    path = layouts.llava(tmp_path)
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(SamplesError, match=message):
        source("llava", path=path).samples()


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
    }
    kinds = {
        "img": datasets.Image(),
        "Answer Type": datasets.Value("string"),
        "answers": datasets.Sequence(datasets.Value("string")),
        "thumb": datasets.Image(),
    }
    (tmp_path / "data").mkdir()
    made = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
    made.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    return str(tmp_path / "data")


def test_hub(hub):
    found = source("hub", path=hub, split="test", image="img").samples()
    assert found.table.rows() == [
        ("row-000000", "a", ["x"], "0"),
        ("row-000001", "b", ["y", "z"], "1"),
        ("row-000002", None, [], "2"),
    ]
    assert found.table.columns == ["sample_id", "answer_type", "answers", "image"]
    assert found.image("2").getpixel((0, 0)) == (2, 0, 0)
    text = source("hub", path=hub, split="test", image="", columns=["answers"], shuffle=0).samples().table
    assert text.columns == ["sample_id", "answers", "image"]
    assert text["image"].null_count() == 3


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"split": "tst"}, "split tst: .*; did you mean 'test'?"),
        ({"image": "imgg"}, r"has no column 'imgg'; did you mean 'img'\?; it has img, Answer Type"),
        ({"columns": ["answer"]}, "has no column 'answer'; did you mean 'answers'?"),
        ({"path": "nobody/nothing-of-this-name"}, "data set nobody/nothing-of-this-name, split test: "),
    ],
)
def test_hub_says_what_is_not_there(hub, keys, message):
    with pytest.raises(SamplesError, match=message):
        source("hub", **{"path": hub, "split": "test", "image": "img", **keys}).samples()
