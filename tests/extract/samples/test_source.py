"""What every source does: shuffle, limit, resize."""

from PIL import Image

import layouts
from sampling import ids, source


def test_digits():
    digits = source("digits")
    found = digits.samples()
    assert found.table.height == 1797
    assert found.table.row(0) == ("digit-0000", "zero", found.table["split"][0], "digit-0000")
    assert dict(found.table.group_by("split").len().iter_rows()) == {"train": 1148, "validation": 200, "test": 449}
    assert found.image("digit-0000").size == (8, 8)
    assert source("digits", split="test").samples().table.height == 449


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
    assert source("imagefolder", path=folder, resize=4).samples().image("dog/p.png").mode == "RGB"
