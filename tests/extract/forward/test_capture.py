"""Captured vectors are bit for bit what the blocks received."""

import numpy as np
import pytest
import torch

import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.capture import CaptureError, NotFiniteError, Selection, capture
from actstore_extract.roles import parse_role, positions
from tiny import BATCHES, MIXED, SAME

NONE = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


def make(model: Model, texts: list[str], *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest, model: Model) -> Batch:
    texts, left, more = BATCHES[request.param]
    return tiny.filled(model, make(model, texts, left=left), more, left=left)


def texts_of(batch: Batch) -> list[str]:
    """The prompts that a batch of BATCHES was made of."""
    return {1: SAME[:1], 2: SAME, 3: MIXED}[len(batch)]


def everything(batch: Batch) -> list[Selection]:
    return [Selection(np.arange(layout.length)) for layout in batch.layouts]


@torch.no_grad()
def inputs_of_blocks(model: Model, batch: Batch) -> list[torch.Tensor]:
    """x_0..x_L by plain hooks on the modules, (samples, slots, d) each."""
    decoder = model.module.get_decoder()
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        for module in (*decoder.layers, decoder.norm)
    ]
    model.module(**batch.inputs)
    for handle in handles:
        handle.remove()
    return seen


def valid(batch: Batch, x: torch.Tensor) -> torch.Tensor:
    """The rows of x (samples, slots, d) that are no padding, by the attention mask."""
    return x[batch.inputs["attention_mask"].bool()]


def test_bit_equal_to_the_inputs_of_the_blocks(model: Model, batch: Batch) -> None:
    captured = capture(model, batch, everything(batch), layers=range(model.n_layers + 1))
    expected = torch.stack([valid(batch, x) for x in inputs_of_blocks(model, batch)])
    assert captured.residual.shape == (5, sum(layout.length for layout in batch.layouts), tiny.D_MODEL)
    assert torch.equal(captured.residual, expected)


def test_roles_are_the_right_tokens_whatever_the_padding(model: Model, batch: Batch) -> None:
    """At layer 0, words by the table of embeddings and image tokens by what the model sees of each image alone."""
    table = model.module.get_input_embeddings()
    alone = [model.collate([model.encode(prompt)]) for prompt in tiny.prompts(texts_of(batch))]
    seen = [inputs_of_blocks(model, one)[0][0] for one in alone]
    for name in ("eoi", "boi", "text", "last", "first-image", "last-image", "image", "prefix", "suffix"):
        at = [positions(parse_role(name), layout, seed=0, sample_id="s") for layout in batch.layouts]
        picks = [NONE if where is None else where for where in at]
        found = capture(model, batch, [Selection(pick) for pick in picks], layers=[0]).residual[0]
        for i, rows in enumerate(found.split([len(pick) for pick in picks])):
            ids = batch.layouts[i].token_ids[picks[i]]
            words = ids != model.image_token_id
            assert torch.equal(rows[words], table(torch.from_numpy(ids[words])))
            if name in ("eoi", "boi") and len(ids):
                assert model.tokenizer.convert_ids_to_tokens(ids.tolist())[0] in model.facts()[name]
                assert not torch.equal(rows, table(torch.from_numpy(batch.layouts[i].token_ids[picks[i] - 1])))
            if words.all():
                continue
            assert relative(rows[~words], seen[i][picks[i][~words]]) <= 1e-5
            if name == "image":  # the control: each a token beside
                assert relative(rows[~words], seen[i][picks[i][~words] - 1]) > 1e-2


def test_agrees_with_output_hidden_states_up_to_the_final_norm(model: Model, batch: Batch) -> None:
    captured = capture(model, batch, everything(batch), layers=range(model.n_layers + 1)).residual
    with torch.no_grad():
        states = model.module(**batch.inputs, output_hidden_states=True).hidden_states
        for layer in range(model.n_layers):
            assert torch.equal(captured[layer], valid(batch, states[layer]))
        assert torch.equal(model.norm(captured[-1]), valid(batch, states[-1]))
    assert not torch.equal(captured[-1], valid(batch, states[-1]))


@pytest.mark.parametrize("left", [False, True])
def test_a_padded_sample_is_the_sample_alone(model: Model, left: bool) -> None:
    layers = range(model.n_layers + 1)
    batch = make(model, MIXED, left=left)
    together = capture(model, batch, everything(batch), layers=layers, next_token=True)
    start = 0
    for i, prompt in enumerate(tiny.prompts(MIXED)):
        alone = model.collate([model.encode(prompt)])
        single = capture(model, alone, everything(alone), layers=layers, next_token=True)
        stop = start + alone.n_slots
        assert relative(together.residual[:, start:stop], single.residual) <= 1e-5
        assert relative(together.next_logits[i], single.next_logits[0]) <= 1e-5
        if i == 0:  # the control: one slot off is seen
            assert relative(together.residual[:, start + 1 : stop], single.residual[:, :-1]) > 1e-2
        start = stop


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """Largest difference over the largest value; NaN, which passes no comparison, if there is one."""
    assert x.shape == y.shape
    real = y > torch.finfo(y.dtype).min  # Chameleon's forbidden tokens
    assert torch.equal(real, x > torch.finfo(x.dtype).min)
    return float(((x - y)[real].abs().max() / y[real].abs().max()).item())


def test_rows_come_as_selected(model: Model) -> None:
    batch = make(model, MIXED)
    x = inputs_of_blocks(model, batch)[2]
    picks = [np.array([5, 3, 5]), np.array([], np.int64), np.array([0])]
    captured = capture(model, batch, [Selection(pick) for pick in picks], layers=[2])
    assert torch.equal(captured.residual[0], torch.stack([x[0, 5], x[0, 3], x[0, 5], x[2, 0]]))


def test_layers_in_any_order(model: Model) -> None:
    batch = make(model, SAME)
    one = capture(model, batch, everything(batch), layers=[4, 0, 2]).residual
    two = capture(model, batch, everything(batch), layers=[0, 2, 4]).residual
    assert torch.equal(one[[1, 2, 0]], two)


def test_means_are_float32_means_of_the_positions(model: Model) -> None:
    batch = make(model, MIXED, left=True)
    image = [layout.image for layout in batch.layouts]
    selections = [Selection(at, (at, at[:2])) for at in image]
    captured = capture(model, batch, selections, layers=[1, 4])
    assert captured.means.shape == (2, 6, tiny.D_MODEL)
    assert captured.means.dtype == torch.float32
    rows = captured.residual.double().reshape(2, 3, len(image[0]), tiny.D_MODEL)
    assert relative(captured.means[:, ::2].double(), rows.mean(2)) < 1e-6
    assert relative(captured.means[:, 1::2].double(), rows[:, :, :2].mean(2)) < 1e-6


def test_bfloat16() -> None:
    module, processor = tiny.chameleon()
    model = Model(module.bfloat16(), processor)
    batch = make(model, MIXED)
    selections = [Selection(np.arange(x.length), (x.image,)) for x in batch.layouts]
    captured = capture(model, batch, selections, layers=range(5), next_token=True)
    assert captured.residual.dtype == torch.bfloat16
    expected = torch.stack([valid(batch, x) for x in inputs_of_blocks(model, batch)])
    assert torch.equal(captured.residual, expected)
    first = captured.residual[:, batch.layouts[0].image].float().mean(1)
    assert relative(captured.means[:, 0], first) < 1e-6
    assert captured.next_logits is not None
    assert captured.next_logits.dtype == torch.float32


def test_next_logits_are_those_of_the_last_token(model: Model, batch: Batch) -> None:
    captured = capture(model, batch, everything(batch), layers=[], next_token=True)
    assert captured.residual.shape[0] == 0
    with torch.no_grad():
        logits = model.module(**batch.inputs).logits
    last = [int(offset) + layout.length - 1 for offset, layout in zip(batch.offset, batch.layouts, strict=True)]
    expected = logits[range(len(batch)), last]
    assert captured.next_logits is not None
    assert captured.next_logits.shape == expected.shape
    assert relative(captured.next_logits, expected) <= 1e-6


def test_the_forward_stops_where_nothing_more_is_wanted(model: Model) -> None:
    batch, calls = make(model, SAME), []
    modules = {**{f"block {i}": block for i, block in enumerate(model.layers)}, "norm": model.norm}
    modules["head"] = model.module.get_output_embeddings()
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: calls.append(name)) for name, module in modules.items()
    ]
    capture(model, batch, everything(batch), layers=[0, 2])
    assert calls == ["block 0", "block 1", "block 2"]  # whose input is what was wanted last
    calls.clear()
    capture(model, batch, everything(batch), layers=[4])
    assert calls == ["block 0", "block 1", "block 2", "block 3", "norm"]
    calls.clear()
    capture(model, batch, everything(batch), layers=[0], next_token=True)
    assert calls[-2:] == ["norm", "head"]
    for handle in handles:
        handle.remove()


def n_hooks(model: Model) -> int:
    modules = model.module.modules()
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in modules)


def test_no_hooks_stay(model: Model) -> None:
    batch, before = make(model, SAME), n_hooks(model)
    capture(model, batch, everything(batch), layers=[0, 2])
    capture(model, batch, everything(batch), layers=[0, 4], next_token=True)
    with pytest.raises(CaptureError):
        capture(model, batch, everything(batch), layers=[5])
    assert n_hooks(model) == before


def test_not_finite_names_the_sample_and_the_layer() -> None:
    model = tiny.model("chameleon")
    texts = ["<image> this digit is a", "<image> one", "<image> animal"]
    batch = make(model, texts)
    with torch.no_grad():
        model.layers[1].mlp.down_proj.weight[3] = torch.inf
    with pytest.raises(NotFiniteError, match="residual stream at layer 2 of s0, s1, s2"):
        capture(model, batch, everything(batch), layers=range(5))
    capture(model, batch, everything(batch), layers=[0, 1])
    model = tiny.model("chameleon")
    word = model.tokenizer.convert_tokens_to_ids("animal")
    with torch.no_grad():
        model.decoder.embed_tokens.weight[word, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="residual stream at layer 0 of s2") as caught:
        capture(model, batch, everything(batch), layers=[0, 1])
    assert caught.value.sample_ids == ("s2",)
    image = [Selection(layout.image, (layout.image,)) for layout in batch.layouts]
    capture(model, batch, image, layers=[0])  # what is not selected may be anything
    with pytest.raises(NotFiniteError, match="mean residual stream at layer 0 of s2"):
        capture(model, batch, [Selection(layout.image, (layout.text,)) for layout in batch.layouts], layers=[0])


def test_bad_requests() -> None:
    model = tiny.model("chameleon")
    batch = make(model, MIXED)
    good = everything(batch)
    with pytest.raises(CaptureError, match="layer 5 is out of range: this model has residual points 0 to 4"):
        capture(model, batch, good, layers=[0, 5])
    with pytest.raises(CaptureError, match="each may be named once"):
        capture(model, batch, good, layers=[0, 0])
    with pytest.raises(CaptureError, match="2 selections for 3 samples"):
        capture(model, batch, good[:2], layers=[0])
    with pytest.raises(CaptureError, match="s0: a position outside its 23 tokens"):  # slot 23 is padding
        capture(model, batch, [Selection(np.array([23])), *good[1:]], layers=[0])
    with pytest.raises(CaptureError, match="mean over no positions"):
        capture(model, batch, [Selection(np.array([0]), (np.array([], np.int64),)), *good[1:]], layers=[0])
