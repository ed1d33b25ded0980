"""A model spread over devices: hooks follow its blocks. No GPU is needed: the devices are made up."""

from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from unittest import mock

import numpy as np
import pytest
import torch

import far
import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward.attention import AttentionSelection, Columns
from actstore_extract.forward.capture import Captured, Selection, capture
from actstore_extract.forward.generation import generate
from actstore_extract.forward.points import reading, writing
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.roles import parse_role
from forked import processes

pytest.importorskip("accelerate")

TEXTS = ["<image> this digit is a", "<image> this is a one , two , this digit is a"]
BLOCKS = [
    {"queries": "text", "keys": "image", "mode": "post", "layers": [1, 2]},
    {"queries": "text", "keys": "image", "mode": "pre", "layers": [0, 3]},
    {"queries": "text", "keys": "last-image", "mode": "pre", "heads": [1]},
]
FIELDS = ("residual", "means", "next_logits", "keys", "values")


def make(name: str) -> Model:
    model = tiny.model(name)
    model.decoder.set_attn_implementation({"": "eager"})
    return model


def batch_of(model: Model, *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(TEXTS)], left=left)


def spread(model: Model) -> None:
    """What a device map does: the first blocks on far:0, the last ones and the norm on far:1, the rest on the CPU."""
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module

    for i, part in enumerate((*model.layers, model.norm)):
        device = torch.device("far", min(i // 2, 1))
        far.send(part, device.index)
        add_hook_to_module(part, AlignDevicesHook(execution_device=device))
    head = model.module.get_output_embeddings()
    add_hook_to_module(head, AlignDevicesHook(execution_device=torch.device("cpu")))


def everything(model: Model) -> Captured:
    batch = batch_of(model)
    every = [Selection(np.arange(x.length), (x.text, x.image), np.arange(x.length)) for x in batch.layouts]
    keys = tuple(map(parse_role, ("last-image", "image", "at-0")))
    columns = AttentionSelection(keys, per_head=True, mass=True)
    layers, blocks = range(model.n_layers + 1), range(model.n_layers)
    return capture(model, batch, every, layers=layers, blocks=blocks, next_token=True, attention=columns)


def knocked_out(model: Model) -> list[str]:
    batch = batch_of(model, left=True)
    with block_attention(model, batch, [parse_block(block, n_layers=4) for block in BLOCKS]):
        return generate(model, batch, max_new_tokens=4)


def patched(model: Model) -> torch.Tensor:
    """Logits where vectors of the last token go from one sample to the other, and from each device to the other."""
    batch = batch_of(model)
    last = [batch.rows(i, np.array([layout.length - 1])) for i, layout in enumerate(batch.layouts)]
    rows = torch.from_numpy(np.concatenate(last))
    with torch.no_grad(), reading(model, batch, rows, [("residual", 1), ("attention-input", 3)]) as found:
        model(batch)
    (early, late) = (x.flip(0) for x in found.values())
    with writing(model, batch, rows, {("residual", 3): early, ("attention-input", 1): late}):
        return model(batch).logits[:, -1]


def on_two_devices(name: str) -> dict[str, object]:
    """All of the above on made-up devices, as tensors of the CPU, and where the blocks were."""
    far.register()
    model = make(name)
    with torch.no_grad(), far.FarAway():
        spread(model)
        seen: list[str] = []
        with ExitStack() as hooks:
            for block in model.layers:
                handle = block.mlp.register_forward_pre_hook(lambda _, args: seen.append(str(args[0].device)))
                hooks.callback(handle.remove)
            captured = everything(model)
        attention = captured.attention
        assert attention is not None
        return {
            "devices": seen,
            **{field: getattr(captured, field).float().numpy() for field in FIELDS},
            "mass": attention.mass.numpy(),
            **{f"to {role}": column.numpy() for role, column in attention.columns.items()},
            "texts": knocked_out(model),
            "patched": patched(model).cpu().numpy(),
        }


def in_vain(name: str) -> None:
    """The control: attention columns that do not follow their block."""
    with mock.patch.object(Columns, "_follow", return_value=None):
        on_two_devices(name)


@pytest.fixture(scope="module")
def elsewhere() -> ProcessPoolExecutor:
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        yield pool


@pytest.mark.parametrize(
    "name", ["clip_gemma", *(pytest.param(name, marks=pytest.mark.slow) for name in ("chameleon", "pixtral"))]
)
def test_two_devices_give_what_one_gives(elsewhere: ProcessPoolExecutor, name: str) -> None:
    found = elsewhere.submit(on_two_devices, name).result()
    assert found["devices"] == ["far:0", "far:0", "far:1", "far:1"]
    model = make(name)
    plain = everything(model)
    for field in FIELDS:
        np.testing.assert_allclose(found[field], getattr(plain, field).numpy(), rtol=0, atol=1e-5)
    assert plain.attention is not None
    np.testing.assert_allclose(found["mass"], plain.attention.mass.numpy(), rtol=0, atol=1e-5)
    for role, column in plain.attention.columns.items():
        np.testing.assert_allclose(found[f"to {role}"], column.numpy(), rtol=0, atol=1e-5)
    assert found["texts"] == knocked_out(model)
    own = patched(model)
    np.testing.assert_allclose(found["patched"], own.detach().numpy(), rtol=0, atol=1e-5)


def test_what_does_not_follow_its_block_is_seen(elsewhere: ProcessPoolExecutor) -> None:
    with pytest.raises(RuntimeError, match=r"tensors on devices \[(-1, 0|0, 1)"):
        elsewhere.submit(in_vain, "chameleon").result()
