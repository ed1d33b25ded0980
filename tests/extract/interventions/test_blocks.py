"""Attention blocks: what is blocked has no weight, in prefill and in generation."""

import numpy as np
import pytest
import torch

import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.interventions.blocks import InterventionError, always_blocked, block_attention, parse_block

TEXTS = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]
SPEC = {"queries": "text", "keys": "image"}


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


def make(model: Model, texts: list[str], *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


def allowed(batch: Batch, n_slots: int, *, window: int | None = None, block: bool = True) -> torch.Tensor:
    """The mask (samples, 1, n_slots, n_slots) written out: causal, no padding, window, and text -> image cut."""
    i = torch.arange(n_slots)
    mask = (i <= i[:, None]).repeat(len(batch), 1, 1)
    if window:
        mask &= i > i[:, None] - window
    for sample, layout in enumerate(batch.layouts):
        offset = int(batch.offset[sample])
        end = offset + layout.length
        mask[sample, :, :offset] = False
        if offset == 0:
            mask[sample, :, end : batch.n_slots] = False
        mask[sample, i, i] = True  # padding sees itself, lest its softmax be empty
        first_text = offset + int(layout.text[0])
        if block:
            mask[sample, first_text:, offset + layout.image] = False
    return mask[:, None]


def masks(model: Model, batch: Batch, n_slots: int, *, block: bool = True) -> object:
    """The same in the form each decoder takes, as additive floats."""

    def additive(mask: torch.Tensor) -> torch.Tensor:
        return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)

    full = additive(allowed(batch, n_slots, block=block))
    window = getattr(model.decoder.config, "sliding_window", None)
    if not window:
        return full
    return {
        "full_attention": full,
        "sliding_attention": additive(allowed(batch, n_slots, window=window, block=block)),
    }


@torch.no_grad()
def reference(model: Model, batch: Batch, extra: torch.Tensor, *, block: bool = True) -> torch.Tensor:
    """Logits of the prompt and `extra` tokens (samples, n), by one mask for all layers and without hooks."""
    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], extra], 1)
    grown = torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1)
    inputs["position_ids"] = (grown.cumsum(-1) - 1).clamp(min=0)
    inputs["attention_mask"] = masks(model, batch, grown.shape[1], block=block)
    return model.module(**inputs, use_cache=False).logits


def last_rows(batch: Batch, logits: torch.Tensor) -> torch.Tensor:
    """Logits of every text token, (tokens, vocabulary)."""
    picked = [logits[i, batch.offset[i] + layout.text] for i, layout in enumerate(batch.layouts)]
    return torch.cat(picked)


def error(x: torch.Tensor, y: torch.Tensor) -> float:
    real = y > torch.finfo(y.dtype).min
    return float((x - y)[real].abs().max())


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS])
def test_equal_to_the_mask_written_out(model: Model, texts: list[str], left: bool) -> None:
    batch = make(model, texts, left=left)
    none = torch.empty(len(batch), 0, dtype=torch.long)
    with block_attention(model, batch, [parse_block(SPEC, n_layers=4)]):
        blocked = model(batch).logits
    expected, plain = reference(model, batch, none), reference(model, batch, none, block=False)
    assert error(last_rows(batch, blocked), last_rows(batch, expected)) < 2e-5
    assert error(last_rows(batch, model(batch).logits), last_rows(batch, plain)) < 2e-5
    assert error(last_rows(batch, blocked), last_rows(batch, plain)) > 1e-2


def test_generation_is_blocked_at_every_step(model: Model) -> None:
    batch = make(model, TEXTS, left=True)
    options = {"max_new_tokens": 5, "do_sample": False, "suppress_tokens": [model.image_token_id], "eos_token_id": 2}
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    with block_attention(model, batch, [parse_block(SPEC, n_layers=4)]), torch.no_grad():
        out = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, batch.n_slots :]
    expected = reference(model, batch, new)[:, batch.n_slots - 1 : -1]
    plain = reference(model, batch, new, block=False)[:, batch.n_slots - 1 : -1]
    got = torch.stack(out.logits, 1)
    assert error(got, expected) < 2e-5
    assert error(got[:, -1], plain[:, -1]) > 1e-2


def test_only_the_layers_named(model: Model) -> None:
    batch = make(model, TEXTS)
    everything = [Selection(np.arange(layout.length)) for layout in batch.layouts]
    plain = capture(model, batch, everything, layers=range(5)).residual
    with block_attention(model, batch, [parse_block({**SPEC, "layers": [2]}, n_layers=4)]):
        blocked = capture(model, batch, everything, layers=range(5)).residual
    assert torch.equal(plain[:3], blocked[:3])
    assert not torch.equal(plain[3], blocked[3])


def test_blocks_of_the_model_itself_hold_in_every_forward(model: Model) -> None:
    gated = always_blocked(Model(model.module, model.processor), [SPEC])
    batch = make(model, TEXTS)
    text = [Selection(layout.text) for layout in batch.layouts]
    with block_attention(model, batch, [parse_block(SPEC, n_layers=4)]):
        expected = capture(model, batch, text, layers=range(5), next_token=True)
    got = capture(gated, batch, text, layers=range(5), next_token=True)
    assert torch.equal(got.residual, expected.residual)
    assert torch.equal(got.next_logits, expected.next_logits)
    assert not torch.equal(got.residual, capture(model, batch, text, layers=range(5)).residual)
    assert gated.facts()["blocked"] == ["text -> image, all layers"]


def test_image_rows_are_untouched_by_a_block_of_text(model: Model) -> None:
    batch = make(model, TEXTS)
    image = [Selection(layout.image) for layout in batch.layouts]
    plain = capture(model, batch, image, layers=range(5)).residual
    with block_attention(model, batch, [parse_block(SPEC, n_layers=4)]):
        blocked = capture(model, batch, image, layers=range(5)).residual
    assert error(plain, blocked) < 1e-5


def test_a_role_the_sample_lacks_blocks_nothing() -> None:
    model = tiny.model("llava_gemma")
    batch = make(model, TEXTS)
    with block_attention(model, batch, [parse_block({"queries": "text", "keys": "eoi"}, n_layers=4)]):
        assert torch.equal(model(batch).logits, model(batch).logits)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"queries": "text"}, "needs queries and keys"),
        ({**SPEC, "layer": [0]}, "has no 'layer'; did you mean 'layers'"),
        ({**SPEC, "layers": [4]}, "numbers from 0 to 3"),
        ({**SPEC, "keys": "imgae"}, "did you mean 'image'"),
        ({**SPEC, "keys": 3}, "neither a role nor a list"),
        ({**SPEC, "keys": "image-mean"}, "a mean of positions"),
    ],
)
def test_bad_blocks(spec: dict[str, object], message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        parse_block(spec, n_layers=4)
    assert caught.type.__name__ in {"InterventionError", "RoleError"}
    assert issubclass(InterventionError, Exception)
