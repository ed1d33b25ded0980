"""Blind queries, which lose every key before the softmax: they attend to nothing under every kernel."""

import pytest
import torch

import tiny
from actstore_extract.families import Model
from actstore_extract.interventions.blocks import block_attention, parse_block
from attending import ROUNDING, attention, error, make, scaled
from knocking import generated, reference

IMAGE = ["boi", "image", "eol"]
BLIND = [
    {"queries": "text", "keys": "all"},
    {"queries": "text", "keys": "all", "heads": [0, 3], "layers": [0, 2]},
    {"queries": IMAGE, "keys": ["at-0", *IMAGE]},
]
FOUR = ["<image> this digit is a", "<image> one , two", "<image> this is a two , this digit is a", "one two <image>"]
KERNELS = [
    (name, kernel) for name in tiny.SYSTEMS for kernel in ("eager", "sdpa") if "gemma" not in name or kernel == "eager"
]


@pytest.fixture(scope="module", params=KERNELS, ids="-".join)
def model(request: pytest.FixtureRequest) -> Model:
    """Gemma-2 has soft-caps, which only its eager kernel knows."""
    name, kernel = request.param
    model = tiny.model(name)
    model.decoder.set_attn_implementation({"": kernel})
    return model


def blocked(model: Model, texts: list[str], spec: dict[str, object]) -> torch.Tensor:
    batch = make(model, texts, left=True)
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        return model(batch).logits


@pytest.mark.parametrize("spec", BLIND)
def test_equal_to_an_attention_written_out_alone_and_among_four(model: Model, spec: dict[str, object]) -> None:
    batch, found = make(model, FOUR, left=True), blocked(model, FOUR, spec)
    assert error(batch, found, reference(model, batch, spec)) < ROUNDING
    alone, batch = blocked(model, FOUR[:1], spec), make(model, FOUR[:1], left=True)
    assert error(batch, found[:1, -batch.n_slots :], alone) < ROUNDING
    assert error(batch, alone, model(batch).logits) > 1e-2


def test_at_every_step_of_cached_generation(model: Model) -> None:
    found, wanted, plain = generated(model, BLIND[0], FOUR[1:3], n=3)
    real = wanted > torch.finfo(wanted.dtype).min
    assert scaled(found, wanted, real) < ROUNDING
    assert scaled(found, plain, real) > 1e-2


def test_all_heads_and_each_of_them_are_the_same_cut(model: Model) -> None:
    batch, each = make(model, FOUR, left=True), {**BLIND[0], "heads": [0, 1, 2, 3]}
    assert error(batch, blocked(model, FOUR, BLIND[0]), blocked(model, FOUR, each)) < ROUNDING
    two = [{"queries": "text", "keys": keys, "heads": heads} for keys, heads in (("image", None), ("all", [1]))]
    with block_attention(model, batch, [parse_block(one, n_layers=4) for one in two]):
        weights = attention(model, batch).columns["last"][1]
    assert (weights[:, 1].nan_to_num() == 0).all()
    assert weights[:, 2].nansum() > 0
