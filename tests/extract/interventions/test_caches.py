"""Knockouts hold at every step of generation, whatever a model calls its cache; what cannot be counted is refused."""

import pytest
import torch
from transformers import DynamicCache

import kinds
import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.tap import AttentionError, attention_modules, window
from actstore_extract.interventions.blocks import block_attention, parse_block
from attending import make
from older import INTERFACE, OLDER, older

TEXTS = ["this is a one , this digit is a", "one two three , this is a two , this digit is a"]
EARLY = {"queries": "text", "keys": ["at-1", "at-2"]}
KNOCKOUTS = [{**EARLY, "mode": "pre"}, {"queries": "text", "keys": "all", "mode": "pre"}, {**EARLY, "mode": "post"},
             {**EARLY, "heads": [0, 2]}]  # fmt: skip
STEPS = 3


@pytest.fixture(scope="module", params=OLDER)
def model(request: pytest.FixtureRequest) -> Model:
    return older(request.param)


@torch.no_grad()
def cached(model: Model, batch: Batch, blocks: list[dict[str, object]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens (samples, steps) that the model goes on with, and their logits."""
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"}
    options = {"do_sample": False, "max_new_tokens": STEPS, "eos_token_id": None, "pad_token_id": model.pad_token_id}
    with block_attention(model, batch, [parse_block(one, n_layers=4) for one in blocks]):
        found = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    return found.sequences[:, batch.n_slots :], torch.stack(found.logits, 1)


@torch.no_grad()
def anew(model: Model, batch: Batch, blocks: list[dict[str, object]], new: torch.Tensor) -> torch.Tensor:
    """Logits before each of the new tokens, by one forward of everything without a cache."""
    inputs = {**batch.inputs, "input_ids": torch.cat([batch.inputs["input_ids"], new], 1)}
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(new)], 1)
    if "position_ids" in inputs:
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with block_attention(model, batch, [parse_block(one, n_layers=4) for one in blocks]):
        return model.module(**inputs, use_cache=False).logits[:, batch.n_slots - 1 : -1]


@pytest.mark.parametrize("spec", KNOCKOUTS)
def test_with_a_cache_as_without(model: Model, spec: dict[str, object]) -> None:
    batch = make(model, TEXTS, left=True)
    if (spec.get("mode") == "post" or "heads" in spec) and model.module.config.model_type not in INTERFACE:
        with pytest.raises(AttentionError, match="does not run its attention through Transformers"):
            cached(model, batch, [spec])
        return
    new, logits = cached(model, batch, [spec])
    assert (logits - anew(model, batch, [spec], new)).abs().max() < 1e-4
    assert (logits - anew(model, batch, [], new)).abs().max() > 0.1
    assert (logits - anew(model, batch, [{**spec, "queries": "last-1"}], new))[:, 1:].abs().max() > 1e-3


def test_a_query_blind_in_the_windows_that_a_model_keeps_to_itself() -> None:
    model, seen = older("gpt_neo"), []
    batch = make(model, TEXTS[:1])
    spec = {"queries": "last", "keys": [f"at-{i}" for i in range(batch.n_slots - 6, batch.n_slots)]}
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        for module in attention_modules(model):
            module.attention.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0][0, -1].abs().max()))
        model(batch)
    assert [float(one) > 0 for one in seen] == [True, False, True, False]  # every other block has a window of 6


def test_attention_without_a_known_output_is_refused_a_blind_query() -> None:
    model = older("gptj")
    batch = make(model, TEXTS)
    for module in attention_modules(model):
        module.result = module.out_proj
        del module.out_proj
        module.forward = _renamed(module)
    with block_attention(model, batch, [parse_block(KNOCKOUTS[0], n_layers=4)]):
        model(batch)
    blind = parse_block(KNOCKOUTS[1], n_layers=4)
    with (
        block_attention(model, batch, [blind]),
        pytest.raises(AttentionError, match="block 0: [0-9]+ queries lose every key"),
    ):
        model(batch)


def _renamed(module: torch.nn.Module) -> object:
    """The module's forward, whose output projection is called otherwise."""

    def forward(*args: object, **kwargs: object) -> object:
        object.__setattr__(module, "out_proj", module.result)
        return type(module).forward(module, *args, **kwargs)

    return forward


def test_caches_and_masks_that_cannot_be_counted() -> None:
    hidden = torch.zeros(1, 2, 8)
    with pytest.raises(AttentionError, match="block 1 is given past_key_value, a tuple"):
        window(1, (hidden,), {"past_key_value": (hidden, hidden)})
    shared = DynamicCache(config=tiny.llama()[0].config)
    with pytest.raises(AttentionError, match="block 4 attends to the keys of another block"):
        window(4, (), {"hidden_states": hidden, "layer_past": shared})
    model = kinds.text("gemma3n_text")  # whose last block reads the keys of the second
    with pytest.raises(AttentionError, match="block 3 attends to the keys of another block"):
        cached(model, make(model, TEXTS, left=True), [{**EARLY, "mode": "post"}])
    model = older("gpt_neox")
    batch, module = make(model, TEXTS), attention_modules(model)[2]
    module.register_forward_pre_hook(
        lambda _, args, kwargs: (args, {**kwargs, "attention_mask": kwargs["attention_mask"][..., :-1]}),
        with_kwargs=True,
    )
    with (
        block_attention(model, batch, [parse_block(KNOCKOUTS[0], n_layers=4)]),
        pytest.raises(AttentionError, match="block 2 has a mask .2, 1, 14, 13. for 14 queries and 14 keys"),
    ):
        model(batch)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_no_mask_stands_for_the_causal_one(kernel: str) -> None:
    model = tiny.model("llama")
    model.decoder.set_attn_implementation({"": kernel})
    batch, block = make(model, TEXTS[:1]), parse_block(KNOCKOUTS[0], n_layers=4)
    with block_attention(model, batch, [block]):
        expected = model(batch).logits
    for module in attention_modules(model):
        module.register_forward_pre_hook(
            lambda _, args, kwargs: (args, {**kwargs, "attention_mask": None}), with_kwargs=True
        )
    with block_attention(model, batch, [block]):
        assert (model(batch).logits - expected).abs().max() < 1e-5


def test_attention_that_heeds_no_mask_as_ours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """MPT's own says what may not be seen; an attention may be given a mask and not hand it on."""
    model = kinds.text("mpt", d_model=64, n_heads=4, n_layers=4)
    batch, block = make(model, TEXTS), parse_block(KNOCKOUTS[0], n_layers=4)
    with pytest.raises(AttentionError, match="MptAttention of block 0 is not known to heed a mask of queries x keys"):
        block_attention(model, batch, [block]).__enter__()
    model = tiny.model("llama")
    module = attention_modules(model)[2]
    own = module.forward
    deaf = lambda *args, attention_mask, **kwargs: own(*args, attention_mask=None, **kwargs)  # noqa: ARG005, E731
    monkeypatch.setattr(module, "forward", deaf)
    batch = make(model, TEXTS[:1])
    with (
        block_attention(model, batch, [block]),
        pytest.raises(AttentionError, match="LlamaAttention of block 2 does not hand its kernel the mask it is given"),
    ):
        model(batch)
