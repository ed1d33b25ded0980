"""The tap reads a decoder's attention, and leaves the model as it was."""

import pytest
import torch
from transformers import AttentionMaskInterface, PreTrainedModel

import tiny
from actstore_extract.families import Model
from actstore_extract.forward import tap
from actstore_extract.forward.tap import AttentionError, attention_modules, tapped
from attending import attention, error, make
from tiny import MIXED, SAME


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
