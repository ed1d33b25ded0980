"""What cannot be learned from is named before it is learned from, or when it is read."""

import shutil

import pytest
from PIL import Image

import trainings
from actstore_extract.pictures import PictureError
from actstore_extract.training.data import BadExamplesError, gather
from actstore_extract.training.loop import TrainingError
from actstore_extract.training.program import train_adapter

BAD = [
    ({"conversations": trainings.said("<image> this")}, "no answer"),
    ({"conversations": trainings.said("<image> this", " ")}, "no answer"),
    ({"conversations": trainings.said("this", "one")}, "0 <image> in the text for one image"),
    ({"conversations": trainings.said("<image> this <image>", "one")}, "2 <image> in the text for one image"),
    ({"conversations": trainings.said("<image> this", "one"), "image": None}, "<image> in the text but no image"),
    ({"conversations": trainings.said("<image> this", "one"), "image": "gone.png"}, "no image .*gone.png"),
    ({"conversations": trainings.said("<image> this", "one"), "image": ["0.png"]}, r"no image .*/\['0.png'\]"),
    ({"conversations": trainings.said("<image> this", "one", "and")}, "turns do not alternate: human, gpt, human"),
    ({"conversations": [{"from": "system", "value": ""}]}, "a turn is from 'system', not human or gpt"),
    ({"conversations": [{"from": "human"}]}, "not of the form of LLaVA's releases"),
]


WORDLESS = [None, 5, 0.5, True, ["one"], {"text": "one"}]
BAD += [({"conversations": trainings.said("<image> this", one)}, "no answer") for one in WORDLESS]
BAD += [({"conversations": trainings.said(one, "one")}, "not of the form of LLaVA's releases") for one in WORDLESS]
BAD += [({"conversations": [trainings.said("<image> this")[0], {"from": "gpt"}]}, "no answer")]


@pytest.mark.parametrize(("record", "reason"), BAD)
def test_bad_conversations_are_named(folder, record, reason):
    trainings.conversations(folder, 2, {"id": "odd", "image": "0.png", **record})
    made = trainings.adapter_recipe(folder)
    with pytest.raises(BadExamplesError, match=rf"^1 of 3 examples cannot be used:\n  llava: 000002/odd: {reason}"):
        gather(made.data, images_only=True, skip_bad=False)
    data, said = gather(made.data, images_only=True, skip_bad=True)
    assert len(data) == 2
    assert said[0].startswith("1 of 3 examples cannot be used and are left out:")


def test_bad_conversations_are_counted(folder):
    trainings.conversations(folder, 2, *({"id": str(i), "conversations": []} for i in range(5)))
    with pytest.raises(
        BadExamplesError, match=r"^5 of 7 examples cannot be used:(\n  llava: .*){3}\n  and 2 more\nmend"
    ):
        gather(trainings.adapter_recipe(folder).data, images_only=True, skip_bad=False)


def test_conversations_about_nothing_to_be_seen(folder):
    text = {"id": "text", "conversations": trainings.said("and", "one")}
    trainings.conversations(folder, 2, text)
    made = trainings.adapter_recipe(folder)
    data, said = gather(made.data, images_only=True, skip_bad=False)
    assert (len(data), said) == (2, ["llava: 1 of 3 conversations have no image and are left out"])
    assert len(gather(made.data, images_only=False, skip_bad=False)[0]) == 3
    trainings.conversations(folder, 2, {"id": "gpt", "conversations": trainings.said("and", "one")[::-1]})
    assert len(gather(made.data, images_only=True, skip_bad=False)[0]) == 2
    with pytest.raises(BadExamplesError, match="turns do not alternate: gpt, human"):
        gather(made.data, images_only=False, skip_bad=False)


def test_an_image_that_turns_out_unreadable(folder, tmp_path):
    (folder / "images" / "3.png").write_bytes(b"<html>")
    out, made = tmp_path / "out", trainings.adapter_recipe(folder)
    with pytest.raises(TrainingError, match=r"000003/3: its image 3.png cannot be read: cannot identify") as caught:
        train_adapter(made, out, device="cpu")
    step = int(str(caught.value).partition(":")[0].removeprefix("step "))
    assert f"{step} steps are kept" in str(caught.value)
    shutil.copytree(out, tmp_path / "again")
    done = train_adapter(trainings.adapter_recipe(folder, "training.skip_bad=true"), tmp_path / "again", device="cpu")
    assert done.finished
    shutil.copy(folder / "images" / "2.png", folder / "images" / "3.png")
    assert train_adapter(made, out, device="cpu").finished
    (folder / "images" / "3.png").write_bytes(b"<html>")
    done = train_adapter(trainings.adapter_recipe(folder, "training.skip_bad=true"), tmp_path / "skipped", device="cpu")
    assert sum(row.bad for row in done.log) == 2  # once in each epoch
    assert sum(row.examples for row in done.log) == 22


def test_images_come_through_the_one_door(folder):
    plain, exif = Image.open(folder / "images" / "0.png"), Image.Exif()
    exif[0x0112] = 6
    plain.transpose(Image.Transpose.ROTATE_90).save(folder / "images" / "0.png", exif=exif)
    (folder / "images" / "1.png").write_bytes(b"BM" + b"\x7f" * 60)
    data, _ = gather(trainings.adapter_recipe(folder).data, images_only=True, skip_bad=False)
    assert data.image(0).tobytes() == plain.convert("RGB").tobytes()
    with pytest.raises(PictureError):
        data.image(1)
