"""Knockouts are those of an attention written out, at every step, and change nothing else."""

import pytest
import torch

import tiny
from actstore_extract.families import Model
from actstore_extract.forward import weights
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.interventions.blocks import InterventionError, block_attention, parse_block
from attending import ROUNDING, attention, close, error, make, scaled
from knocking import generated, reference
from tiny import MIXED, SAME


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def wide(request: pytest.FixtureRequest) -> Model:
    model = tiny.model(request.param)
    return Model(model.module.double(), model.processor)


CACHED = 5e-5  # over several steps with a cache, whose forwards have other shapes; float64 shows that it is rounding
KNOCKOUTS = {
    "text to image": {"queries": "text", "keys": "image", "mode": "post"},
    "all to one": {"queries": "all", "keys": "last-image", "mode": "post"},
    "two layers": {"queries": "text", "keys": "image", "mode": "post", "layers": [1, 3]},
    "two heads": {"queries": "text", "keys": "image", "mode": "post", "heads": [0, 3]},
    "two heads before": {"queries": "text", "keys": "image", "mode": "pre", "heads": [0, 3]},
    "by the mask": {"queries": "text", "keys": "image", "mode": "pre"},
}


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("name", KNOCKOUTS)
def test_knockouts_equal_an_attention_written_out(model: Model, name: str, left: bool) -> None:
    batch, spec = make(model, MIXED[:2], left=left), KNOCKOUTS[name]
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        found = model(batch).logits
    assert error(batch, found, reference(model, batch, spec)) < ROUNDING
    assert error(batch, found, model(batch).logits) > 1e-2
    other = {**spec, "mode": "pre" if spec["mode"] == "post" else "post"}
    assert error(batch, found, reference(model, batch, other)) > 1e-3


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_in_float64_only_the_rounding_of_the_norms_is_left(wide: Model, name: str) -> None:
    batch, spec = make(wide, MIXED[:2]), KNOCKOUTS[name]
    with block_attention(wide, batch, [parse_block(spec, n_layers=4)]):
        found = wide(batch).logits
    assert error(batch, found, reference(wide, batch, spec)) < 5e-6


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_knockouts_hold_at_every_step_of_cached_generation(model: Model, name: str) -> None:
    found, wanted, plain = generated(model, KNOCKOUTS[name], MIXED[:2])
    real = wanted > torch.finfo(wanted.dtype).min
    assert scaled(found, wanted, real) < CACHED
    assert float((found - plain)[:, -1][real[:, -1]].abs().max()) > 1e-3


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_in_float64_generation_differs_by_the_rounding_of_the_norms(wide: Model, name: str) -> None:
    found, wanted, _ = generated(wide, KNOCKOUTS[name], MIXED[:1])
    real = wanted > torch.finfo(torch.float32).min
    assert float((found - wanted)[real].abs().max()) < 5e-6


def test_captured_weights_are_those_that_are_used(model: Model) -> None:
    batch = make(model, MIXED[:2], left=True)
    plain = attention(model, batch)
    for name in ("text to image", "by the mask"):
        with block_attention(model, batch, [parse_block(KNOCKOUTS[name], n_layers=4)]):
            found = attention(model, batch)
        cut = found.columns["image"][:4]
        assert ((cut == 0) | cut.isnan()).all()
        first = found.columns["last"][0], plain.columns["last"][0]  # the first block has the same input
        assert close(*first) == (name == "text to image")


def test_rows_that_lose_nothing_keep_every_bit(model: Model) -> None:
    batch = make(model, MIXED[:2])
    every = [Selection(layout.image[:-1]) for layout in batch.layouts]
    plain = capture(model, batch, every, layers=range(5)).residual
    with block_attention(model, batch, [parse_block(KNOCKOUTS["all to one"], n_layers=4)]):
        assert torch.equal(capture(model, batch, every, layers=range(5)).residual, plain)
    with block_attention(
        model, batch, [parse_block({"queries": "text", "keys": "at-999", "mode": "post"}, n_layers=4)]
    ):
        assert torch.equal(model(batch).logits, model(batch).logits)


def test_a_query_that_may_see_nothing_gives_nothing() -> None:
    model = tiny.model("chameleon")
    batch = make(model, MIXED, left=True)
    block = parse_block({"queries": "text", "keys": "all", "heads": [1], "layers": [0]}, n_layers=4)
    with block_attention(model, batch, [block]):
        found, logits = attention(model, batch), model(batch).logits
    column = found.columns["last"][0]
    assert (column[:, 1].nan_to_num() == 0).all()
    assert (column[:2, [0, 2, 3]].nansum(-1) > 0).all()
    assert error(batch, logits, logits) == 0  # no NaN


def test_queries_in_front_of_a_key_are_edited_where_the_mask_lets_them_see_it() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 4, 8, generator=generator) for _ in range(3))
    keys = torch.tensor([[False, False, False, True]])
    cut = weights.Cut(~torch.zeros_like(keys), keys, torch.tensor([True, False]), "post")
    slots, prefix = torch.arange(4), torch.ones(4, 4).tril().bool()
    prefix[:2, 3] = True
    output = torch.zeros(1, 4, 2, 8)
    for mask, is_causal, rows in (
        (prefix[None, None], True, [0, 1, 3]),
        (torch.zeros(1, 1, 4, 4).masked_fill(~prefix, torch.finfo(torch.float32).min), True, [0, 1, 3]),
        (None, True, [3]),
        (None, False, [0, 1, 2, 3]),
    ):
        all_rows = weights.Rows(query, key, value, mask, 0.5, None, is_causal, slots, slots, [cut])
        edited = all_rows.edited(output)
        assert edited.ne(0).any(-1).any(-1).nonzero()[:, 1].tolist() == rows
        allowed = prefix if mask is not None else torch.ones(4, 4).tril().bool() if is_causal else ~prefix | prefix
        share = (query @ key.mT * 0.5).masked_fill(~allowed, -torch.inf).softmax(-1)
        share[:, 0, :, 3] = 0
        assert close(edited[:, rows], (share @ value).transpose(1, 2)[:, rows])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"mode": "after"}, '"pre" or "post"'),
        ({"heads": []}, "list of head numbers"),
        ({"heads": [-1]}, "list of head numbers"),
        ({"heads": [4]}, "text -> image, all layers, heads .4.: this model has heads 0 to 3"),
    ],
)
def test_bad_knockouts(spec: dict[str, object], message: str) -> None:
    model = tiny.model("chameleon")
    batch = make(model, SAME)
    with pytest.raises(InterventionError, match=message):
        block_attention(
            model, batch, [parse_block({"queries": "text", "keys": "image", **spec}, n_layers=4)]
        ).__enter__()


def test_a_block_says_what_it_is() -> None:
    spec = {"queries": "text", "keys": "eoi", "layers": [2], "heads": [1]}
    assert str(parse_block(spec, n_layers=4, mode="post")) == "text -> eoi, layers [2], heads [1], after the softmax"
    assert str(parse_block({**spec, "mode": "pre"}, n_layers=4, mode="post")) == "text -> eoi, layers [2], heads [1]"
