"""[model] processor: each setting takes effect or is refused, and the run card says what was in force."""

import json

import pytest

import pictured
import tiny
from actstore_extract.families import LoadError, Model, Prompt
from actstore_extract.families.image_settings import change, in_force


def changed(model: Model, **settings: object) -> Model:
    """As `load` makes it."""
    return Model(model.module, model.processor, settings=change(model.processor, settings))


def n_image(model: Model, size: tuple[int, int] = (112, 56)) -> int:
    return len(model.encode(Prompt("s", "<image> a", tiny.image(0, size))).layout.image)


# Settings that the class of the processor has itself, those that only the call takes, and those of the image processor.
CASES = [
    ("internvl_tiles", {"crop_to_patches": False}, 12, 4),
    ("aya_vision", {"crop_to_patches": False}, 12, 4),
    (
        "gemma3",
        {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 20,
            "pan_and_scan_max_num_crops": 2,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        },
        4,
        12,
    ),
    ("qwen2_vl", {"size": {"shortest_edge": 200 * 200, "longest_edge": 300 * 300}}, 8, 66),
    ("idefics3_split", {"do_image_splitting": False}, 12, 4),
    ("idefics2_split", {"do_image_splitting": False}, 20, 4),
]


@pytest.mark.parametrize(("name", "settings", "before", "after"), CASES)
def test_a_setting_takes_effect(name: str, settings: dict[str, object], before: int, after: int) -> None:
    model = pictured.KINDS[name]()
    assert n_image(model) == before
    other = changed(pictured.KINDS[name](), **settings)
    assert n_image(other) == after
    said = other.facts()["processor"]
    assert {key: said[key] for key in settings} == settings
    assert said != model.facts()["processor"]


def test_pixels_are_the_edges_of_a_size() -> None:
    model = changed(pictured.qwen2_vl(), min_pixels=200 * 200)
    assert model.facts()["processor"]["size"] == {"shortest_edge": 200 * 200, "longest_edge": 168 * 168}
    model = changed(pictured.qwen2_vl(), min_pixels=200 * 200, max_pixels=300 * 300)
    assert n_image(model) == 66
    assert model.facts()["processor"]["size"] == {"shortest_edge": 200 * 200, "longest_edge": 300 * 300}


def test_pixels_that_are_settings_of_their_own_stay_so() -> None:
    model = changed(tiny.model("emu3"), min_pixels=64 * 64, max_pixels=64 * 64)
    assert (model.settings, n_image(model, (8, 8))) == ({}, 64)
    assert model.facts()["processor"]["min_pixels"] == 64 * 64


def test_what_the_class_of_a_processor_has_itself_is_in_force() -> None:
    """InternVL and Aya Vision cut into tiles whatever their image processor says."""
    model = pictured.aya_vision()
    model.processor.image_processor.crop_to_patches = False
    assert n_image(model) == 12
    said = in_force(model.processor, {})
    assert (said["crop_to_patches"], said["max_patches"], said["size"]) == (True, 2, {"height": 56, "width": 56})
    json.dumps(said)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"crop_to_patch": True}, "no setting 'crop_to_patch'; did you mean 'crop_to_patches'"),
        ({"max_tiles": 2}, r"no setting 'max_tiles'.* It has crop_to_patches, "),
        ({"do_pan_and_scan": True}, "no setting 'do_pan_and_scan'"),
        ({"return_tensors": "np"}, "no setting 'return_tensors'"),
        ({"crop_size": {"height": 4, "width": 4}}, "no setting 'crop_size'"),  # nothing is cropped there
        ({"max_patches": "two"}, "does not take {'max_patches': 'two'}: .*int"),
        ({"size": {"depth": 4}}, "does not take {'size': {'depth': 4}}: "),
    ],
)
def test_a_setting_that_is_none_is_refused(settings: dict[str, object], reason: str) -> None:
    with pytest.raises(LoadError, match=reason):
        change(pictured.KINDS["internvl_tiles"]().processor, settings)


def test_a_model_of_text_has_no_settings() -> None:
    model = tiny.model("llama")
    assert model.facts()["processor"] == {}
    with pytest.raises(LoadError, match="no setting 'size'"):
        change(model.processor, {"size": 8})
