"""The self-check: models that are right pass in every number type, and every fault that was found is found again."""

from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import cache, partial
from itertools import cycle

import pytest
import torch

import faults
import kinds
import tiny
from actstore_extract.check.check import Asked, CheckError, check
from actstore_extract.check.found import Found
from actstore_extract.families import Model, load
from actstore_extract.families.pretrained import DTYPES
from actstore_extract.forward.tap import AttentionError
from actstore_extract.shipped import MODELS

EVERYTHING = Asked(batch_size=8, reads=True, blocks=True, generates=True)
Make = Callable[[], Model]

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def in_turn(names: Iterable[str]) -> pytest.MarkDecorator:
    """Each name with one number type, in turn; with the others in the slow tests."""
    usual = dict(zip(names, cycle(DTYPES)))
    each = [(name, dtype) for dtype in DTYPES for name in usual]
    slow = pytest.mark.slow
    marked = [pytest.param(*one, marks=() if usual[one[0]] == one[1] else slow, id="-".join(one)) for one in each]
    return pytest.mark.parametrize(("name", "dtype"), marked)


def system(name: str) -> Make:
    return partial(once, tiny.model, name)


def text(name: str) -> Make:
    return partial(once, kinds.text, name)


def made(make: Callable[..., Model], *args: str) -> Model:
    """One of its own: a test changes the number type of buffers, too."""
    model = once(make, *args)
    return Model(deepcopy(model.module), model.processor)


@cache
def once(make: Callable[..., Model], *args: str) -> Model:
    return make(*args)


def checked(model: Model, dtype: str, asked: Asked = EVERYTHING) -> Found:
    """What is found in two samples, with a picture where the model takes one."""
    model.module.to(DTYPES[dtype])
    image = "" if model.image_token_id is None else faults.IMAGE.get(type(model.module).__name__, "<image>")
    size = (16, 16) if "hy_s" in image else (8, 8)
    return check(model, tiny.prompts([f"{image} {kinds.LONG}"] * 2, [size] * 2), asked)


@in_turn(tiny.SYSTEMS)
def test_families_are_right(name: str, dtype: str) -> None:
    found = checked(made(tiny.model, name), dtype)
    assert found.held == ["points", "attention blocked", "two pictures"]
    assert {"attention read", "first token generated", "padded"} <= found.differences.keys() <= {*LOOKED_AT}
    assert max(found.differences.values()) <= found.allowed
    assert (found.left_out, found.batches, found.why) == ({}, "padded", None)


LOOKED_AT = ["attention read", "position ids", "first token generated", "padded", "of one length"]


@in_turn(MODELS)
def test_models_that_ship_are_right(name: str, dtype: str) -> None:
    found = check(load(str(MODELS[name]), dtype=dtype), tiny.prompts(sizes=[(28, 28)] * 2), EVERYTHING)
    assert (len(found.held), found.left_out, found.batches) == (3, {}, "padded")


@pytest.mark.parametrize(
    "dtype", ["bfloat16", *(pytest.param(one, marks=pytest.mark.slow) for one in ("float16", "float32"))]
)
@pytest.mark.parametrize("name", ["gemma3n_text", "gpt_oss", "jamba", "lfm2", "minimax", "nanochat"])
def test_other_kinds_are_right(name: str, dtype: str) -> None:
    """Several streams, sinks, blocks without attention, a norm that runs twice."""
    found = checked(made(kinds.text, name), dtype)
    assert (found.held, [*found.left_out]) == (["points", "attention blocked"], ["two pictures"])
    assert found.batches == "padded"


@every_dtype
def test_streams_that_cannot_be_read_are_right(dtype: str) -> None:
    found = checked(made(kinds.text, "deepseek_v4"), dtype, Asked(batch_size=8))
    assert (found.held, found.batches) == (["points"], "padded")


FAULTS: dict[str, tuple[Make, Callable[[Model, pytest.MonkeyPatch], None] | None, str]] = {
    "sparse": (
        text("deepseek_v32"),
        faults.renamed,
        "reading its attention changes the model.* difference [0-9.]+, where",
    ),
    "sparse, pictures": (kinds.mistral_large4, faults.renamed, "reading its attention changes the model"),
    "axes": (faults.hunyuan, faults.plain_position_ids, "with plain position ids it computes something else"),
    "streams": (text("deepseek_v4"), faults.other_tokens, "not what it computes without hooks"),
    "norm": (text("nanochat"), faults.norm_twice, "residual point 4 of .* is seen 2 times in a forward, not once"),
    "lists": (text("longcat_flash"), faults.attention_in_lists, "did not run its ModuleList"),
    "separators": (system("llava_onevision"), faults.every_placeholder, "4 of 24 `image` vectors .* they separate the"),
    "text": (system("llava_gemma"), faults.patches_as_text, "1 of [0-9]+ `text` vectors .* change with the picture"),
    "words": (system("llava_gemma"), faults.picture_elsewhere, "16 of 16 `image` vectors .* such as cross-attention"),
    "points": (system("llava_gemma"), faults.a_layer_off, "reading its attention changes the model"),
    "generation": (system("llava_gemma"), faults.generation_without_the_picture, "its first token"),
}


def test_a_model_that_generates_otherwise_is_run_where_no_text_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    make, put_back, _ = FAULTS["generation"]
    model = made(make)
    put_back(model, monkeypatch)
    found = checked(model, "float32", Asked(batch_size=8, reads=True, blocks=True))
    assert "not those by which it generates its first token" in found.left_out["generation"]


@in_turn(FAULTS)
def test_a_fault_is_refused(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, put_back, said = FAULTS[name]
    model = made(make)
    if put_back is not None:
        put_back(model, monkeypatch)
    if name == "lists":  # that of its own forward comes before
        with pytest.raises(AttentionError, match=said):
            checked(model, dtype)
        return
    asked = Asked(batch_size=8) if name == "streams" else EVERYTHING
    with pytest.raises(CheckError, match=rf"^self-check of {type(model.module).__name__}.*{said}.*check = false"):
        checked(model, dtype, asked)


@every_dtype
@pytest.mark.parametrize(
    ("make", "put_back", "batches"),
    [
        (text("deepseek_v32"), None, "of one length"),  # which of two equal scores is the k-th depends on the length
        (faults.hunyuan, None, "of one"),  # an axis of its positions counts images over the batch
        (system("llava_gemma"), faults.no_batches, "of one"),
    ],
    ids=["sparse", "images counted", "crash"],
)
def test_a_batch_is_not_what_its_samples_are(
    make: Make, put_back: Callable[..., None] | None, batches: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(make)
    if put_back is not None:
        put_back(model, monkeypatch)
    found = checked(model, dtype)
    assert found.batches == batches
    assert f"padded in a batch a sample of {type(model.module).__name__} is not what it is alone: " in found.why
    assert found.lines()[-1].endswith("one sample at a time" if batches == "of one" else "samples of one length")


def test_the_words_of_others_show_what_padding_does_to_some() -> None:
    """What padding does to a model that chooses keys goes by the words: the first sample is the same in any batch."""
    model, texts = made(kinds.text, "deepseek_v32"), [f"{kinds.LONG} two", kinds.LONG]
    prompts = [one._replace(chat=True) for one in tiny.prompts(texts, [(8, 8)] * 2)]  # as it is: nothing begins it
    assert check(model, prompts[:1], Asked(batch_size=4)).batches == "padded"
    for batch_size in (2, 4):
        assert check(model, prompts, Asked(batch_size)).batches == "of one length"


def test_a_sample_that_sees_the_first_ones_picture_runs_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(system("llava_gemma"))
    collate = model.kind.collate

    def first(*args: object, **kwargs: object) -> dict[str, torch.Tensor]:
        """As in models whose inputs count in what is joined: each sample is given the first one's picture."""
        batch = collate(*args, **kwargs)
        pixels = batch["pixel_values"]
        return {**batch, "pixel_values": pixels[:1].expand_as(pixels)}

    monkeypatch.setattr(model.kind, "collate", first)
    found = checked(model, "float32")
    assert found.batches == "of one"
    assert "with another picture in a batch a sample of" in found.why
