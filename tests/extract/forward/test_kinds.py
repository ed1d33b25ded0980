"""What a forward of other kinds of models is, and what of it is refused: several streams, blocks without attention."""

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import kinds
import tiny
from actstore_extract.families import Batch, LoadError, Model, families
from actstore_extract.families.anatomy import anatomy
from actstore_extract.forward.attention import AttentionSelection
from actstore_extract.forward.capture import CaptureError, Selection, capture
from actstore_extract.forward.points import writing
from actstore_extract.forward.tap import AttentionError, attention_modules
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.roles import parse_role
from attending import ROUNDING, attention, close, error, make, maps
from knocking import reference

TEXTS = ["this is a one , this digit is a", "this digit is a"]


def everything(batch: Batch) -> list[Selection]:
    return [Selection(np.arange(layout.length)) for layout in batch.layouts]


def embedded(model: Model, batch: Batch) -> torch.Tensor:
    """Rows of the table of embeddings for every token of the batch."""
    ids = np.concatenate([layout.token_ids for layout in batch.layouts])
    return model.module.get_input_embeddings()(torch.from_numpy(ids))


STREAMS = {
    "deepseek_v4": ("the mean of 4", lambda x: x.mean(2)),
    "gemma3n_text": ("number 0 of 4", lambda x: x[0]),
    "qwen4_exp_text": ("the mean of 4", lambda x: x.view(*x.shape[:2], 4, 64).mean(2)),
}


@pytest.mark.parametrize("name", STREAMS)
def test_of_several_streams_one_is_kept_and_rows_are_their_own_tokens(name: str) -> None:
    """Layer 0 of DeepSeek-V4 and Qwen4-Exp is the embedding in every stream, of Gemma 3n in the first."""
    model = kinds.text(name)
    batch, seen = make(model, TEXTS), []
    handles = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in model.layers]
    found = capture(model, batch, everything(batch), layers=range(model.n_layers + 1)).residual
    for handle in handles:
        handle.remove()
    alone = make(model, TEXTS[1:])
    n = alone.n_slots
    single = capture(model, alone, everything(alone), layers=range(model.n_layers + 1)).residual
    assert (found[:, -n:] - single).abs().max() <= 1e-5 * single.abs().max()
    assert torch.equal(found[0], embedded(model, batch))
    told, one = STREAMS[name]
    real = batch.inputs["attention_mask"].bool()
    assert torch.equal(found[:-1], torch.stack([one(x)[real] for x in seen]))
    assert model.facts()["residual_stream"] == told
    with pytest.raises(CaptureError, match="carries several residual streams"):
        writing(model, batch, torch.arange(1), {}).__enter__()


def test_what_is_no_stream_of_tokens_is_refused() -> None:
    model = tiny.model("llama")
    batch = make(model, TEXTS)
    model.layers[2].register_forward_pre_hook(lambda _, args: (args[0].flatten(0, 1)[None], *args[1:]))
    with pytest.raises(CaptureError, match=r"blocks of LlamaForCausalLM are handed .1, 20, 64. for 2 samples of 10"):
        capture(model, batch, everything(batch), layers=range(5))


def test_a_point_that_is_come_by_twice_is_refused_in_the_first_forward() -> None:
    model = tiny.model("llama")
    batch, block = make(model, TEXTS), model.layers[3]
    own = block.forward
    block.forward = lambda x, *args, **kwargs: own(own(x, *args, **kwargs), *args, **kwargs)
    capture(model, batch, everything(batch), layers=[0])
    model = tiny.model("llama")
    model.layers[2].register_forward_hook(lambda *_: model.layers[3](torch.zeros(2, 10, 64), **rotated(model)))
    with pytest.raises(CaptureError, match="came by residual point 3 2 times in one forward"):
        capture(model, batch, everything(batch), layers=[0])


def rotated(model: Model) -> dict[str, object]:
    positions = torch.arange(10)[None]
    return {"position_embeddings": model.decoder.rotary_emb(torch.zeros(1, 10, 64), positions)}


def test_a_norm_in_front_of_the_blocks_too_is_the_last_point_behind_them_alone() -> None:
    model = kinds.text("nanochat")
    batch, seen = make(model, TEXTS), []
    handle = model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for next_token in (True, False, False):
        found = capture(model, batch, everything(batch), layers=range(5), next_token=next_token).residual
        real = batch.inputs["attention_mask"].bool()
        assert torch.equal(found[-1], seen[-1][real])
        assert not torch.allclose(found[-1], seen[-2][real], atol=1e-2)
    handle.remove()


def test_without_a_final_norm_the_last_point_is_what_the_last_block_gives() -> None:
    model = kinds.text("bert", is_decoder=True)
    assert model.norm is None
    batch = make(model, TEXTS)
    found = capture(model, batch, everything(batch), layers=range(5)).residual
    states = model.decoder(**batch.inputs).last_hidden_state
    assert torch.equal(found[-1], states[batch.inputs["attention_mask"].bool()])


@pytest.mark.parametrize("name", ["lfm2", "jamba", "minimax"])
def test_blocks_without_attention_have_no_columns_and_the_others_do(name: str) -> None:
    model = kinds.text(name)
    batch = make(model, TEXTS)
    modules = attention_modules(model)
    has = [module is not None for module in modules]
    assert 0 < sum(has) < len(has)
    found = attention(model, batch, mass=False).columns["at-0"]
    assert [not x.isnan().all() for x in found] == [*has, False]
    full = iter(maps(model, batch, skipping=True))
    for layer in np.flatnonzero(has):
        own = next(full)
        for i, layout in enumerate(batch.layouts):
            assert close(found[layer, i, :, : len(layout.text)], own[i, :, layout.text, 0], atol=1e-5)
    first, last = has.index(True), has.index(False)
    spec = {"queries": "text", "keys": ["at-1", "at-2"], "layers": [first], "mode": "post"}
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]):
        knocked = model(batch).logits
    assert error(batch, knocked, reference(model, batch, spec)) < ROUNDING
    assert error(batch, knocked, model(batch).logits) > 1e-2
    for mode in ("pre", "post"):
        with pytest.raises(
            AttentionError, match=rf"blocks .{last}. of .* have no attention to intervene in; those that"
        ):
            block_attention(
                model, batch, [parse_block({**spec, "layers": [last], "mode": mode}, n_layers=4)]
            ).__enter__()
    with pytest.raises(AttentionError, match=rf"blocks .{last}. of .* have no attention to read"):
        capture(model, batch, everything(batch), layers=[last], attention=AttentionSelection((parse_role("at-0"),)))


@pytest.mark.parametrize("mode", ["pre", "post"])
def test_an_edit_of_a_module_that_its_block_does_not_run_is_an_error(mode: str) -> None:
    model = tiny.model("llama")
    batch, block = make(model, TEXTS), model.layers[1]
    block.forward = lambda x, *_, **__: x + block.mlp(x)
    spec = parse_block({"queries": "text", "keys": "at-1", "mode": mode}, n_layers=4)
    with (
        pytest.raises(AttentionError, match="block 1, a LlamaDecoderLayer, did not run its LlamaAttention"),
        block_attention(model, batch, [spec]),
    ):
        model(batch)


def test_two_attentions_in_a_block_are_refused() -> None:
    model = kinds.text("longcat_flash")
    with pytest.raises(AttentionError, match="block 0 has 2 attentions, such as LongcatFlashMLA"):
        attention_modules(model)


def test_a_decoder_is_found_further_inside_or_not_at_all() -> None:
    module = tiny.llama()[0]
    module.get_decoder = lambda: module  # as Llama 4 has it
    assert anatomy(module).layers is module.model.layers
    assert anatomy(module).decoder is module.model
    module.model.blocks_of_mine = module.model._modules.pop("layers")
    with pytest.raises(
        LoadError, match="LlamaForCausalLM has no layers or h or blocks or layer here or further inside"
    ):
        anatomy(module)


@pytest.mark.parametrize("name", ["qwen2_vl", "cohere_compass"])
def test_positions_of_several_axes_are_the_models_own(name: str) -> None:
    """Whether its configuration says their sections, nests them, or leaves them to the code."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    nested = {"rope_parameters": dict.fromkeys(("full_attention", "sliding_attention"), rope)}
    with torch.device("meta"):
        config = AutoConfig.for_model(name, text_config=nested if name == "cohere_compass" else {})
        config.get_text_config().num_hidden_layers = 1
        module = AutoModelForImageTextToText.from_config(config)
    assert not families()["generic"].takes_position_ids(module)
    assert families()["generic"].takes_position_ids(tiny.llama()[0])


def test_positions_that_begin_behind_the_paddings_id_are_the_models_own() -> None:
    model = kinds.text("roberta", is_decoder=True)
    assert "position_ids" not in make(model, TEXTS, left=True).inputs
