"""ImageNet's class folders, their names, and the classes of the paper."""

import pytest

import layouts
from actstore_extract.samples import SamplesError
from actstore_extract.samples.synsets import WNID, papers
from sampling import ids, source


def test_the_papers_classes():
    animals, pairs, wnids, _ = papers()
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
