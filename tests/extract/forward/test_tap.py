"""The tap reads a decoder's attention, and leaves the model as it was."""

import numpy as np
import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

import kinds
import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.attention import AttentionSelection
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.forward.tap import AttentionError, attention_modules, tapped
from actstore_extract.roles import parse_role
from attending import attention, make
from tiny import SAME


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


def implementations(model: Model) -> dict[str, tuple[bool, str]]:
    """Of every part of the model: whether it shares the decoder's configuration, and its attention implementation."""
    return {
        name: (part.config is model.decoder.config, part.config._attn_implementation)
        for name, part in model.module.named_modules()
        if isinstance(part, PreTrainedModel)
    }


def leftovers(model: Model) -> int:
    """Hooks and attributes of the attention modules."""
    modules = [*attention_modules(model), model.norm, *model.layers]
    return sum(len(x._forward_hooks) + len(x._forward_pre_hooks) + len(vars(x)) for x in modules)


def test_the_implementation_keeps_its_name_and_no_other_module_is_read(model: Model) -> None:
    batch, before, seen, own = make(model, SAME), implementations(model), [], AttentionInterface.get_interface
    with tapped(model, [(layer, lambda _, layer=layer: seen.append(layer)) for layer in range(model.n_layers)]):
        assert implementations(model) == before
        model(batch)
        with tapped(model, [(0, lambda _: seen.append("again"))]):
            model(batch)
    assert seen == [0, 1, 2, 3, 0, "again", 1, 2, 3]
    assert AttentionInterface.get_interface is own


SPARSE = {"deepseek_v32": lambda: kinds.text("deepseek_v32"), "mistral_large4": kinds.mistral_large4}


@pytest.mark.parametrize("name", SPARSE)
def test_reading_changes_nothing_of_a_model_that_looks_at_the_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sparse attention masks what its indexer leaves out only where the implementation is sdpa or eager by name."""
    model = SPARSE[name]()
    batch = make(model, [kinds.LONG, kinds.LONG])
    every = [Selection(np.arange(layout.length)) for layout in batch.layouts]
    plain = logits(model, batch)
    bare, read = (
        capture(model, batch, every, layers=range(5), attention=asked)
        for asked in (None, AttentionSelection((parse_role("at-0"),)))
    )
    assert torch.equal(bare.residual, read.residual)
    with tapped(model, [(layer, lambda _: None) for layer in range(4)]):
        assert torch.equal(logits(model, batch), plain)
    for interface in (AttentionInterface, AttentionMaskInterface):
        monkeypatch.setitem(interface._global_mapping, "renamed", interface._global_mapping["sdpa"])
    monkeypatch.setattr(model.decoder.config, "_attn_implementation_internal", "renamed")
    assert not torch.allclose(logits(model, batch), plain, atol=0.1)


@torch.no_grad()
def logits(model: Model, batch: Batch) -> torch.Tensor:
    """Those of the bare module."""
    return model.module(**batch.inputs, use_cache=False).logits


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


def test_attention_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("llama")
    batch = make(model, ["this digit is a"])
    monkeypatch.setattr(model.decoder.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(AttentionError, match="'flash_attention_2' cannot be read or edited: choose sdpa or eager"):
        attention(model, batch)
    monkeypatch.undo()
    own = lambda hidden_states, **_: (hidden_states, None)  # noqa: E731
    monkeypatch.setattr(attention_modules(model)[0], "forward", own)
    with pytest.raises(AttentionError, match="LlamaAttention does not run its attention through"):
        attention(model, batch)
