"""Attention columns and mass are those of eager attention."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface

import kinds
import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward import tap, weights
from actstore_extract.forward.attention import AttentionSelection, Columns, cost
from actstore_extract.forward.capture import NotFiniteError, Selection, capture
from actstore_extract.forward.tap import AttentionError, attention_modules
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.roles import Layout, parse_role
from attending import NONE, ROLES, ROUNDING, attention, close, error, expected, make, maps, same
from knocking import reference
from tiny import BATCHES, MIXED, SAME


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest, model: Model) -> Batch:
    texts, left, more = BATCHES[request.param]
    return tiny.filled(model, make(model, texts, left=left), more, left=left)


def test_equal_to_eager_attention(model: Model, batch: Batch) -> None:
    found, wanted = attention(model, batch), expected(batch, maps(model, batch))
    assert list(found.columns) == [role.name for role in ROLES]
    assert same(found, wanted)
    mean = attention(model, batch, per_head=False)
    assert close(mean.mass, wanted.mass)
    for name, column in wanted.columns.items():
        assert close(mean.columns[name], column.mean(2, keepdim=True))


def test_a_wrong_weight_would_be_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make(model, MIXED, left=True)
    full = maps(model, batch)
    wanted, rows = expected(batch, full), tap._rows
    attention(model, batch)  # proves the arithmetic, which is then not looked at again
    wrong = {
        "one percent of scaling": lambda x: replace(x, scaling=x.scaling * 1.01),
        "grouping of heads": lambda x: replace(x, key=x.key.roll(1, 1)),
        "no mask": lambda x: replace(x, mask=None),
    }
    if model.decoder.config.to_dict().get("attn_logit_softcapping"):
        wrong["no soft-cap"] = lambda x: replace(x, softcap=None)
    for name, spoil in wrong.items():
        monkeypatch.setattr(tap, "_rows", lambda *args, spoil=spoil: spoil(rows(*args)))
        assert not close(attention(model, batch).mass, wanted.mass, atol=1e-4), name
    monkeypatch.setattr(tap, "_rows", rows)
    found = attention(model, batch)
    assert same(found, wanted)
    beside = expected(batch, full, shift=-1).columns["last-image"]
    assert not close(found.columns["last-image"], beside, atol=1e-3)
    if any(layout.eoi for layout in batch.layouts):
        assert not close(found.columns["eoi"], found.columns["last-image"], atol=1e-3)


def test_the_model_runs_as_before(model: Model, batch: Batch) -> None:
    every = [Selection(np.arange(layout.length)) for layout in batch.layouts]
    layers = range(model.n_layers + 1)
    plain = capture(model, batch, every, layers=layers, next_token=True)
    selection = AttentionSelection(ROLES, mass=True)
    found = capture(model, batch, every, layers=layers, next_token=True, attention=selection)
    assert plain.attention is None
    assert torch.equal(found.residual, plain.residual)
    assert torch.equal(found.next_logits, plain.next_logits)
    assert same(found.attention, attention(model, batch, per_head=False))


def test_layers_are_those_of_the_residual_points(model: Model) -> None:
    batch = make(model, MIXED)
    whole = attention(model, batch)
    selection, none = AttentionSelection(ROLES, per_head=True, mass=True), [NONE] * len(batch)
    some = capture(model, batch, none, layers=[4, 0, 2], attention=selection).attention
    early = capture(model, batch, none, layers=[1], attention=selection).attention
    for name, column in whole.columns.items():
        assert close(some.columns[name], column[[4, 0, 2]], atol=0)
        assert close(early.columns[name], column[[1]], atol=0)
        assert column[4].isnan().all()  # the point after the last block
    assert close(some.mass, whole.mass[[4, 0, 2]], atol=0)


def test_the_forward_ends_with_the_last_attention_wanted() -> None:
    model = tiny.model("chameleon")
    batch, calls = make(model, SAME), []
    named = [*enumerate(model.layers), *((f"a{i}", x) for i, x in enumerate(attention_modules(model)))]
    named.append(("norm", model.norm))
    handles = [x.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, x in named]
    selection = AttentionSelection(ROLES)
    capture(model, batch, [NONE] * 2, layers=[0])
    assert calls[-1] == "norm"  # the first forward comes by every point
    calls.clear()
    capture(model, batch, [NONE] * 2, layers=[0, 2], attention=selection)
    assert calls == [0, "a0", 1, "a1", 2, "a2"]
    calls.clear()
    capture(model, batch, [NONE] * 2, layers=[0, 2])
    assert calls == [0, "a0", 1, "a1", 2]  # whose input is enough
    calls.clear()
    capture(model, batch, [NONE] * 2, layers=[4], attention=selection)
    assert calls == [0, "a0", 1, "a1", 2, "a2", 3, "a3", "norm"]
    for handle in handles:
        handle.remove()


class _Sizes(TorchDispatchMode):
    """Elements of the largest tensor made inside."""

    largest = 0

    def __torch_dispatch__(
        self, function: object, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and not function.is_view:
                self.largest = max(self.largest, tensor.numel())
        return made


def test_long_texts_are_read_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    text = " ".join(np.random.default_rng(0).choice(tiny.WORDS, 200))
    batch = make(model, [text])
    slots, sizes, read = batch.n_slots, _Sizes(), Columns._read

    def measured(*args: object) -> None:
        with sizes:
            read(*args)

    monkeypatch.setattr(Columns, "_read", measured)
    selection = {"keys": (parse_role("at-5"), parse_role("last")), "mass": False}
    whole = attention(model, batch, **selection)
    assert sizes.largest >= tiny.N_HEADS * (slots - 1) * slots
    sizes.largest = 0
    monkeypatch.setattr(weights, "_FLOATS", tiny.N_HEADS * slots * 17)
    blocked = attention(model, batch, **selection)
    assert sizes.largest == tiny.N_HEADS * slots * 17
    assert all(close(blocked.columns[name], column, atol=1e-6) for name, column in whole.columns.items())
    monkeypatch.setattr(weights, "_FLOATS", 1)  # one row is the least
    assert all(
        close(attention(model, batch, **selection).columns[name], column, atol=1e-6)
        for name, column in whole.columns.items()
    )


def test_text_alone_has_no_image_to_attend_to() -> None:
    model = tiny.model("chameleon")
    batch = make(model, ["this digit is a", "<image> this digit is a"][:1])
    found = attention(model, batch)
    assert found.columns["eoi"].isnan().all()
    assert found.mass.shape == (5, 1, 0)
    first = found.columns["at-0"][:4]
    assert ((first > 0) & (first <= 1)).all()
    assert attention(model, batch, mass=False).mass is None
    assert attention(model, make(model, SAME), keys=()).columns == {}


def test_bfloat16_weights_are_float32() -> None:
    module, processor = tiny.chameleon()
    model = Model(module.bfloat16(), processor)
    batch = make(model, MIXED)
    found = attention(model, batch)
    assert found.mass.dtype == torch.float32
    assert not torch.equal(found.mass, found.mass.bfloat16().float())
    # Keys 0..end and what lies behind share a weight of one per query.
    share = found.mass[:4].nansum(-1)
    assert (share < torch.tensor([len(layout.text) for layout in batch.layouts]) + 1e-4).all()


@pytest.mark.parametrize(
    ("name", "texts", "key"), [("chameleon", MIXED, "eoi"), ("llama", ["this is a", "this digit is a"], "last")]
)
def test_not_finite_weights_name_their_sample(name: str, texts: list[str], key: str) -> None:
    model = tiny.model(name)
    batch = make(model, texts)
    slot = int(batch.offset[1]) + int(batch.layouts[1].text[-1])

    def poison(_: object, __: object, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(1, torch.tensor([slot]), torch.nan)

    selections = [Selection(layout.text[:1]) for layout in batch.layouts]
    handle = attention_modules(model)[2].q_proj.register_forward_hook(poison)
    with pytest.raises(NotFiniteError, match="attention at layer 2 of s1") as caught:
        capture(model, batch, selections, layers=[0, 2], attention=AttentionSelection((parse_role(key),)))
    assert caught.value.sample_ids == ("s1",)
    handle.remove()


def test_row_by_row_nothing_changes(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = make(model, MIXED, left=True)
    monkeypatch.setattr(weights, "_FLOATS", 1)
    assert same(attention(model, batch), expected(batch, maps(model, batch)))
    spec = {"queries": "text", "keys": "image", "mode": "post"}
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        found = model(batch).logits
        monkeypatch.undo()
        assert error(batch, found, model(batch).logits) < ROUNDING


@pytest.mark.parametrize("name", ["gpt_oss", "inkling2_text"])
def test_sinks_and_biases_are_in_the_weights_and_in_what_knockouts_leave(name: str) -> None:
    model = kinds.text(name)
    batch = make(model, [kinds.LONG, "this digit is a"], left=True)
    full, found = maps(model, batch), attention(model, batch).columns["at-0"]
    for i, layout in enumerate(batch.layouts):
        first = int(batch.offset[i])
        wanted = full[:, i, :, first:, first][..., layout.text]
        assert close(found[:-1, i, :, : len(layout.text)], wanted, atol=1e-6)
        assert (full[:, i, :, first:, first:].sum(-1) < 0.95).any()  # the rest goes to the sink
    for spec in (
        {"queries": "text", "keys": ["at-1", "at-2"], "mode": "pre", "heads": [0, 1]},
        {"queries": "text", "keys": ["at-1", "at-2"], "mode": "post"},
        {"queries": "text", "keys": "all", "mode": "pre"},
    ):
        with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
            knocked = model(batch).logits
        assert error(batch, knocked, reference(model, batch, spec)) < ROUNDING
        assert error(batch, knocked, model(batch).logits) > 0.1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_attention_that_is_no_softmax_of_its_queries_and_keys_is_refused(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, words = tiny.llama()
    model = Model(module.to(dtype), words)
    batch = make(model, [kinds.LONG, "this digit is a"], left=True)
    attention(model, batch)
    own = AttentionInterface._global_mapping["sdpa"]
    other = lambda *args, scaling, **kwargs: own(*args, scaling=scaling / 3, **kwargs)  # noqa: E731
    monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", other)
    with pytest.raises(AttentionError, match="LlamaAttention is no softmax over its queries, keys and mask"):
        attention(model, batch)


def test_cost() -> None:
    layout = Layout(np.arange(20), image=np.arange(1, 11), eoi=11, text=np.arange(12, 20))
    both = AttentionSelection((parse_role("eoi"), parse_role("image")), mass=True)
    found = cost(both, layout, n_layers=33, n_heads=32)
    assert found.head_mean == 4 * 33 * (8 * 2 + 12)
    assert found.per_head == 4 * 33 * (8 * 2 * 32 + 12)
    assert cost(AttentionSelection(both.keys), Layout(np.arange(3)), n_layers=33, n_heads=32) == (0, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing is left to keep"),
        ({"keys": (parse_role("image-mean"),)}, "image-mean, a mean of positions"),
        ({"keys": (parse_role("eoi"), parse_role("end-image"))}, "name each role once"),
    ],
)
def test_bad_selections(options: dict[str, object], message: str) -> None:
    with pytest.raises(AttentionError, match=message):
        AttentionSelection(**options)
