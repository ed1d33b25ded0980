"""Attention columns, mass and knockouts agree with eager attention, and change nothing else."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask

import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward import tap, weights
from actstore_extract.forward.attention import AttentionSelection, CapturedAttention, Columns, cost
from actstore_extract.forward.capture import NotFiniteError, Selection, capture
from actstore_extract.forward.tap import AttentionError, attention_modules, tapped
from actstore_extract.interventions.blocks import InterventionError, block_attention, parse_block
from actstore_extract.roles import Layout, parse_role, positions
from tiny import BATCHES, MIXED, SAME

ROLES = tuple(map(parse_role, ["eoi", "last-image", "image", "random-image-3", "at-0", "last"]))
NONE = Selection(np.empty(0, np.int64))


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def wide(request: pytest.FixtureRequest) -> Model:
    model = tiny.model(request.param)
    return Model(model.module.double(), model.processor)


def make(model: Model, texts: list[str], *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest, model: Model) -> Batch:
    texts, left, more = BATCHES[request.param]
    return tiny.filled(model, make(model, texts, left=left), more, left=left)


def attention(model: Model, batch: Batch, **options: object) -> CapturedAttention:
    """Attention in all blocks and at the point after the last."""
    selection = AttentionSelection(**{"keys": ROLES, "per_head": True, "mass": True, **options})
    layers = range(model.n_layers + 1)
    found = capture(model, batch, [NONE] * len(batch), layers=layers, attention=selection).attention
    assert found is not None
    return found


@torch.no_grad()
def maps(model: Model, batch: Batch) -> torch.Tensor:
    """Every weight, by Transformers: (layers, samples, heads, slots, slots)."""
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation({"": "eager"})
    try:
        return torch.stack(model.module(**batch.inputs, output_attentions=True, use_cache=False).attentions)
    finally:
        model.decoder.set_attn_implementation({"": before})


def expected(batch: Batch, full: torch.Tensor, shift: int = 0) -> CapturedAttention:
    """The same from whole maps, weight by weight, one more layer of NaN; `shift` moves the keys of the roles."""
    n_layers, n_samples, n_heads = full.shape[:3]
    n_queries = max(len(layout.text) for layout in batch.layouts)
    n_keys = max(layout.image_end + 1 for layout in batch.layouts)
    columns = {role.name: torch.full((n_layers + 1, n_samples, n_heads, n_queries), torch.nan) for role in ROLES}
    mass = torch.full((n_layers + 1, n_samples, n_keys), torch.nan)
    for i, layout in enumerate(batch.layouts):
        offset = int(batch.offset[i])
        own = full[:, i, :, offset:, offset:][:, :, layout.text]
        mass[:-1, i, : layout.image_end + 1] = own.mean(1).sum(1)[:, : layout.image_end + 1]
        for role in ROLES:
            at = positions(role, layout, seed=0, sample_id=batch.sample_ids[i])
            if at is not None:
                columns[role.name][:-1, i, :, : len(layout.text)] = own[..., at + shift].sum(-1)
    return CapturedAttention(columns, mass)


def close(x: torch.Tensor, y: torch.Tensor, *, atol: float = 1e-5) -> bool:
    """NaN in the same places and no difference above `atol`."""
    assert x.shape == y.shape
    return torch.allclose(x, y, rtol=0, atol=atol, equal_nan=True)


def same(x: CapturedAttention, y: CapturedAttention) -> bool:
    return close(x.mass, y.mass) and all(close(x.columns[name], y.columns[name]) for name in y.columns)


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


def test_without_a_mask_function_of_its_own_padding_would_be_ignored(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make(model, MIXED, left=True)
    plain = model(batch).logits
    with tapped(model, []):
        assert torch.equal(model(batch).logits, plain)
    name = "actstore-" + model.decoder.config._attn_implementation
    monkeypatch.delitem(AttentionMaskInterface._global_mapping, name)
    monkeypatch.setattr(AttentionMaskInterface, "register", lambda *_: None)
    with tapped(model, []):
        assert error(batch, model(batch).logits, plain) > 1e-2


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


def implementations(model: Model) -> dict[str, tuple[bool, str]]:
    """Of every part of the model: whether it shares the decoder's configuration, and its attention implementation."""
    return {
        name: (part.config is model.decoder.config, part.config._attn_implementation)
        for name, part in model.module.named_modules()
        if isinstance(part, PreTrainedModel)
    }


def test_only_the_decoder_is_switched_and_only_inside(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    batch, before, seen, bulk = make(model, SAME), implementations(model), [], tap._bulk
    monkeypatch.setattr(tap, "_bulk", lambda kernel, module: seen.append(module) or bulk(kernel, module))
    with tapped(model, [(0, lambda _: None)]):
        inside = implementations(model)
        model(batch)
        with tapped(model, [(0, lambda _: None)]):  # nested: nothing more to switch
            assert implementations(model) == inside
        assert implementations(model) == inside
    assert implementations(model) == before
    assert seen == attention_modules(model)
    for name, (is_decoder, implementation) in before.items():
        assert inside[name] == (is_decoder, "actstore-" * is_decoder + implementation)


def test_everything_is_restored_after_an_error(model: Model) -> None:
    batch = make(model, SAME)
    before = implementations(model), leftovers(model), model(batch).logits

    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tapped(model, [(1, fail), (2, fail)]):
        model(batch)
    attention(model, batch)
    assert (implementations(model), leftovers(model)) == before[:2]
    assert torch.equal(model(batch).logits, before[2])


def leftovers(model: Model) -> int:
    """Hooks and attributes of the attention modules."""
    modules = [*attention_modules(model), model.norm, *model.layers]
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) + len(vars(x)) for x in modules)


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


def test_attention_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    batch = make(model, ["this digit is a"])
    monkeypatch.setattr(model.decoder.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(AttentionError, match="'flash_attention_2' cannot be read or edited: choose sdpa or eager"):
        attention(model, batch)
    monkeypatch.undo()
    handle = attention_modules(model)[0].register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "s_aux": torch.zeros(4)}), with_kwargs=True
    )
    with pytest.raises(AttentionError, match="LlamaAttention has s_aux"):
        attention(model, batch)
    handle.remove()
    own = lambda hidden_states, **_: (hidden_states, None)  # noqa: E731
    monkeypatch.setattr(attention_modules(model)[0], "forward", own)
    with pytest.raises(AttentionError, match="LlamaAttention does not run its attention through"):
        attention(model, batch)


# Knockouts.


@pytest.fixture
def zeroed() -> Iterator[dict[str, object]]:
    """The decoder under an attention of our own, written out, that takes away what the dictionary says."""
    asked: dict[str, object] = {}

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scaling: float,
        softcap: float | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        cut = asked["cut"](module.layer_idx, scores)
        if asked["mode"] == "pre":
            scores = scores.masked_fill(cut, -1e30)
        share = torch.softmax(scores + mask, -1)
        if asked["mode"] == "post":
            share = share.masked_fill(cut, 0)
        return torch.einsum("bhqk,bhkd->bqhd", share, value), None

    AttentionInterface.register("zeroed", forward)
    AttentionMaskInterface.register("zeroed", eager_mask)
    yield asked
    del AttentionInterface._global_mapping["zeroed"], AttentionMaskInterface._global_mapping["zeroed"]


@torch.no_grad()
def reference(
    model: Model, batch: Batch, zeroed: dict[str, object], spec: dict[str, object], extra: torch.Tensor
) -> torch.Tensor:
    """Logits of the prompt and `extra` tokens (samples, n) after the knockout: one forward, no cache, no hooks."""
    layers, heads = spec.get("layers", range(model.n_layers)), spec.get("heads", range(model.n_heads))
    queries, keys = parse_role(spec["queries"]), parse_role(spec["keys"])

    def cut(layer: int, scores: torch.Tensor) -> torch.Tensor:
        taken = torch.zeros(scores.shape, dtype=torch.bool)
        for i, layout in enumerate(batch.layouts):
            q, k = (positions(x, layout, seed=0, sample_id=batch.sample_ids[i]) for x in (queries, keys))
            if layer in layers and q is not None and k is not None:
                new = np.arange(batch.n_slots, scores.shape[2]) if queries.name in ("text", "all") else []
                for head in heads:
                    for slot in [*(q + batch.offset[i]), *new]:
                        taken[i, head, slot, k + batch.offset[i]] = True
        return taken

    zeroed |= {"cut": cut, "mode": spec.get("mode", "pre")}
    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], extra], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1)
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation({"": "zeroed"})
    try:
        return model.module(**inputs, use_cache=False).logits
    finally:
        model.decoder.set_attn_implementation({"": before})


def error(batch: Batch, x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference at the samples' own slots; NaN if there is one."""
    assert x.shape == y.shape
    own = torch.zeros(y.shape[:2], dtype=torch.bool)
    for i, layout in enumerate(batch.layouts):
        own[i, int(batch.offset[i]) :] = True
        own[i, int(batch.offset[i]) + layout.length : batch.n_slots] = False
    real = own[..., None] & (y > torch.finfo(y.dtype).min)
    return scaled(x, y, real)


def scaled(x: torch.Tensor, y: torch.Tensor, real: torch.Tensor) -> float:
    """Largest difference where `real`, as it would be on logits of size 5, which tolerances are about."""
    return float((x - y)[real].abs().max() / y[real].abs().max()) * SIZE


SIZE = 5
ROUNDING = 2e-5  # float32, on logits of that size; two kernels differ as much where nothing is knocked out
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
def test_knockouts_equal_an_attention_written_out(
    model: Model, zeroed: dict[str, object], name: str, left: bool
) -> None:
    batch, spec = make(model, MIXED[:2], left=left), KNOCKOUTS[name]
    none = torch.empty(len(batch), 0, dtype=torch.long)
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        found = model(batch).logits
    assert error(batch, found, reference(model, batch, zeroed, spec, none)) < ROUNDING
    assert error(batch, found, model(batch).logits) > 1e-2
    other = {**spec, "mode": "pre" if spec["mode"] == "post" else "post"}
    assert error(batch, found, reference(model, batch, zeroed, other, none)) > 1e-3


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_in_float64_only_the_rounding_of_the_norms_is_left(wide: Model, zeroed: dict[str, object], name: str) -> None:
    batch, spec = make(wide, MIXED[:2]), KNOCKOUTS[name]
    none = torch.empty(len(batch), 0, dtype=torch.long)
    with block_attention(wide, batch, [parse_block(spec, n_layers=4)]):
        found = wide(batch).logits
    assert error(batch, found, reference(wide, batch, zeroed, spec, none)) < 5e-6


def generated(
    model: Model, zeroed: dict[str, object], spec: dict[str, object], texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (samples, steps, vocabulary) of cached generation under a knockout, those of the attention written out
    without cache, and those without a knockout."""
    batch = make(model, texts, left=True)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    options = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [model.image_token_id], "eos_token_id": None}
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]), torch.no_grad():
        out = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, batch.n_slots :]
    wanted, plain = (
        reference(model, batch, zeroed, one, new)[:, batch.n_slots - 1 : -1] for one in (spec, {**spec, "heads": []})
    )
    return torch.stack(out.logits, 1), wanted, plain


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_knockouts_hold_at_every_step_of_cached_generation(model: Model, zeroed: dict[str, object], name: str) -> None:
    found, wanted, plain = generated(model, zeroed, KNOCKOUTS[name], MIXED[:2])
    real = wanted > torch.finfo(wanted.dtype).min
    assert scaled(found, wanted, real) < CACHED
    assert float((found - plain)[:, -1][real[:, -1]].abs().max()) > 1e-3


@pytest.mark.parametrize("name", KNOCKOUTS)
def test_in_float64_generation_differs_by_the_rounding_of_the_norms(
    wide: Model, zeroed: dict[str, object], name: str
) -> None:
    found, wanted, _ = generated(wide, zeroed, KNOCKOUTS[name], MIXED[:1])
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
