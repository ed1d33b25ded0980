"""What is kept on the device at hand, a GPU where there is one, in float32 and in bfloat16.

In bfloat16 kernels round at different places, and a difference of one bit grows from block to block; so what takes
the same kernel is compared bit for bit, and the rest by its relative error (the norm of the difference over the norm):
LOOSE for one sample in two paddings or under another kernel, on weights that are drawn wide to make errors grow.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import actstore
import tiny
from actstore.maintain import verify
from actstore_extract.again.recompute import recompute
from actstore_extract.families import Batch, Model, load
from actstore_extract.forward.attention import AttentionSelection
from actstore_extract.forward.capture import Captured, Selection, capture
from actstore_extract.forward.generation import generate
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.recipe import recipe
from actstore_extract.replay import Branch, Job, Put, Replay
from actstore_extract.roles import parse_role, positions
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from replaying import apart, captured, knocked_out, online, without_cache
from tiny import MIXED

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOAT, BFLOAT = torch.float32, torch.bfloat16
CLOSE = {FLOAT: 1e-5, BFLOAT: 0.15}  # relative errors; the control in each test is far above
EXACT = 1e-5 if DEVICE == "cpu" else 2e-5  # logits of size 5: a GPU's kernels for few tokens add up in another order
ROLES = tuple(map(parse_role, ["eoi", "last-image", "image", "at-0", "last"]))
KNOCKOUTS = [{"queries": "text", "keys": "image", "mode": mode} for mode in ("post", "pre")]


@pytest.fixture(autouse=True)
def exact_kernels() -> Iterator[None]:
    """No TensorFloat-32, which has ten bits: convolutions take it by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


@cache
def system(name: str, dtype: torch.dtype, device: str = DEVICE) -> Model:
    module, processor = tiny.SYSTEMS[name]()
    return Model(module.to(device, dtype), processor)


@pytest.fixture(params=tiny.SYSTEMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


# On a CPU float32 has tests of its own: test_capture.py, test_attention.py, test_replay.py and so on.
@pytest.fixture(params=[BFLOAT] if DEVICE == "cpu" else [FLOAT, BFLOAT], ids=str)
def model(request: pytest.FixtureRequest, name: str) -> Model:
    return system(name, request.param)


def make(model: Model, texts: list[str] = MIXED, *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


def everything(model: Model, batch: Batch, **options: object) -> Captured:
    each = [Selection(np.arange(x.length), (x.image,), np.arange(x.length)) for x in batch.layouts]
    options = {"next_token": True, **options}
    return capture(model, batch, each, layers=range(model.n_layers + 1), blocks=range(model.n_layers), **options)


@torch.no_grad()
def inputs_of_blocks(model: Model, batch: Batch) -> torch.Tensor:
    """The residual stream at every point (points, samples, slots, d), by plain hooks."""
    seen: list[torch.Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
        for module in (*model.decoder.layers, model.decoder.norm)
    ]
    model.module(**batch.inputs, use_cache=False)
    for handle in handles:
        handle.remove()
    return torch.stack(seen).cpu()


def relative(x: torch.Tensor, y: torch.Tensor) -> float:
    """The norm of the difference over the norm, without tokens that are forbidden in both; NaN if there is one."""
    assert x.shape == y.shape
    said = ~((x < -1e30) & (y < -1e30))
    x, y = x[said].double(), y[said].double()
    return float((x - y).norm() / y.norm().clamp(min=1e-30))


@pytest.mark.parametrize("left", [False, True])
def test_residual_streams_are_bit_for_bit_what_the_blocks_received(model: Model, left: bool) -> None:
    batch = make(model, left=left)
    found, whole = everything(model, batch), inputs_of_blocks(model, batch)
    assert found.residual.dtype == model.dtype
    assert torch.equal(found.residual, whole[:, batch.inputs["attention_mask"].bool().cpu()])
    for i, layout in enumerate(batch.layouts):
        rows = whole[:, i, batch.offset[i] + layout.image].double()
        assert relative(found.means[:, i], rows.mean(1)) <= 1e-6  # in float32, whatever the model's dtype


@pytest.mark.parametrize("left", [False, True])
def test_a_padded_sample_is_the_sample_alone(model: Model, left: bool) -> None:
    batch = make(model, left=left)
    together, start = everything(model, batch), 0
    for i, prompt in enumerate(tiny.prompts(MIXED)):
        single = everything(model, model.collate([model.encode(prompt)]))
        stop = start + batch.layouts[i].length
        assert relative(together.residual[:, start:stop], single.residual) <= CLOSE[model.dtype]
        assert relative(together.next_logits[i], single.next_logits[0]) <= CLOSE[model.dtype]
        if i == 0:
            assert relative(together.residual[:, start + 1 : stop], single.residual[:, :-1]) > 2 * CLOSE[model.dtype]
        start = stop


@contextmanager
def eager(model: Model) -> Iterator[None]:
    """The decoder's attention by plain products."""
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation({"": "eager"})
    try:
        yield
    finally:
        model.decoder.set_attn_implementation({"": before})


@torch.no_grad()
def maps(model: Model, batch: Batch) -> torch.Tensor:
    """Every weight, by Transformers: (layers, samples, heads, slots, slots)."""
    with eager(model):
        return torch.stack(model.module(**batch.inputs, output_attentions=True, use_cache=False).attentions).cpu()


@pytest.mark.parametrize("left", [False, True])
def test_attention_is_that_of_eager_kernels(model: Model, left: bool) -> None:
    batch = make(model, left=left)
    selection = AttentionSelection(ROLES, per_head=True, mass=True)
    # In bfloat16 another kernel is another trajectory; beside the same one, the weights differ by their rounding alone.
    with nullcontext() if model.dtype == FLOAT else eager(model):
        found = everything(model, batch, attention=selection).attention
    full = maps(model, batch)
    assert found is not None
    for i, layout in enumerate(batch.layouts):
        offset = int(batch.offset[i])
        own = full[:, i, :, offset:, offset:][:, :, layout.text].float()
        end = layout.image_end + 1
        errors = [(found.mass[:-1, i, :end], own.mean(1).sum(1)[:, :end])]
        for role in ROLES:
            at = positions(role, layout, seed=0, sample_id=batch.sample_ids[i])
            if at is not None:
                errors.append((found.columns[role.name][:-1, i, :, : len(layout.text)], own[..., at].sum(-1)))
        for x, y in errors:
            if model.dtype == FLOAT:
                assert torch.allclose(x, y, rtol=0, atol=1e-5)
            else:
                assert relative(x, y) <= 0.05


@pytest.mark.parametrize("block", KNOCKOUTS, ids=["post", "pre"])
def test_knockouts_change_what_is_said_and_nothing_else(model: Model, block: dict[str, object]) -> None:
    batch = make(model)
    plain = everything(model, batch)
    with block_attention(model, batch, [parse_block({**block, "layers": [2]}, n_layers=4)]):
        blocked = everything(model, batch)
    assert torch.equal(plain.residual[:3], blocked.residual[:3])
    owner = np.concatenate([np.isin(np.arange(x.length), x.text) for x in batch.layouts])
    assert relative(blocked.residual[3][~owner], plain.residual[3][~owner]) <= CLOSE[model.dtype]
    assert relative(blocked.next_logits, plain.next_logits) > 1e-2


def test_generation_is_the_models_own(model: Model) -> None:
    batch = make(model, left=True)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    with torch.no_grad():
        tokens = model.module.generate(
            **inputs, do_sample=False, max_new_tokens=6, pad_token_id=model.pad_token_id,
            suppress_tokens=[model.image_token_id],
        )  # fmt: skip
    own = model.tokenizer.batch_decode(tokens[:, batch.n_slots :], skip_special_tokens=True)
    assert generate(model, batch, max_new_tokens=6) == own
    with block_attention(model, batch, [parse_block(KNOCKOUTS[0], n_layers=4)]):
        said = everything(model, batch).next_logits
        said[:, model.image_token_id] = -torch.inf
        first = model.tokenizer.batch_decode(said.argmax(-1, keepdim=True), skip_special_tokens=True)
        assert generate(model, batch, max_new_tokens=1) == first


def test_replays_are_the_online_patch(model: Model) -> None:
    encoded = [model.encode(prompt) for prompt in tiny.prompts(MIXED[:2])]
    (source, _), (receiver, said) = (captured(model, one) for one in encoded)
    of, at = (np.array([one.layout.image_end]) for one in encoded)
    there, replay = Put(at, lambda layer: source.residual(layer, of)), Replay(model)
    branches = tuple(Branch(layer, there) for layer in range(model.n_layers + 1))
    packed = [replay.packed([Job(one, branches, at[0])])[0] for one in (receiver, without_cache(receiver))]
    effects = []
    for branch, *found in zip(branches, *packed, strict=True):
        expected = online(model, *encoded, (of, at), "residual", [branch.layer])
        if model.dtype == BFLOAT:
            np.testing.assert_array_equal(replay.full(receiver, branch), expected)
            np.testing.assert_array_equal(replay.full(receiver, Branch(branch.layer)), said)
        else:
            assert max(apart(one, expected) for one in (replay.full(receiver, branch), *found)) < EXACT
        effects.append(apart(expected, said))
    assert max(effects) > 0.05


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
def test_knockouts_are_replayed(name: str) -> None:
    model = system(name, FLOAT)
    encoded = model.encode(tiny.prompts(MIXED[:2])[1])
    receiver, said = captured(model, encoded)
    block = parse_block({"queries": "text", "keys": "last-image", "mode": "pre"}, n_layers=4)
    expected = knocked_out(model, encoded, [block])
    found = Replay(model, blocked=[block]).packed([Job(receiver, (Branch(0),), receiver.layout.image_end)])[0][0]
    assert apart(found, expected) < 2e-5
    assert apart(expected, said) > 1e-3


@pytest.mark.skipif(DEVICE == "cpu", reason="there is no GPU")
def test_the_device_computes_what_the_processor_does(name: str) -> None:
    here, there = system(name, FLOAT, "cpu"), system(name, FLOAT)
    expected, found = (everything(model, make(model)) for model in (here, there))
    for field in ("residual", "means", "keys", "values", "next_logits"):
        assert relative(getattr(found, field), getattr(expected, field)) <= 1e-4


def test_a_whole_run(tmp_path: Path) -> None:
    """Into a store and out of it: some vectors are those of the model alone, what it says is right, it recomputes."""
    changes = ["samples.limit=64", "capture.batch_size=16", "capture.part_samples=32", "model.dtype='bfloat16'"]
    run = Run(recipe.load("digits-fusion", changes), device=DEVICE)
    summary = run.extract(tmp_path / "s")
    assert (summary.samples, summary.failed, summary.left) == (64, 0, 0)
    store = actstore.open(tmp_path / "s")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "cpu"
    assert store.run["device"].startswith(name)
    assert not [step for step in verify.steps(tmp_path / "s") if step.run()]
    rows = store.sql("from rows where role = 'eoi' order by sample_id")
    model = load(str(MODELS["digits-fusion"]), dtype="bfloat16", device=DEVICE)
    for row in rows.gather_every(4).iter_rows(named=True):
        sample = run.extractor(1).encoder.encode(row)
        whole = inputs_of_blocks(model, model.collate([sample]))
        for layer in store.layers:
            own = store.residual(rows.filter(sample_id=row["sample_id"]), layer=layer)[0]
            assert relative(torch.from_numpy(own), whole[layer, 0, row["position"]].float()) < 0.03
    right = store.sql("select avg((next_token = label)::int) from samples").item()
    assert right > 0.85
    again = recompute(tmp_path / "s", n=16, device=DEVICE)
    assert again.worst is None
    assert again.differing.is_empty()
    assert again.table["bit_equal"].sum() == again.table["compared"].sum()
