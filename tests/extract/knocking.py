"""Knockouts by an attention written out, which knows nothing of masks edited or rows computed again."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from actstore_extract.families import Batch, Model
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.roles import parse_role, positions
from attending import make

Spec = dict[str, object]


@contextmanager
def under(model: Model, kernel: str) -> Iterator[None]:
    """Inside, the decoder runs under that kernel."""
    before = model.decoder.config._attn_implementation
    model.decoder.set_attn_implementation({"": kernel})
    try:
        yield
    finally:
        model.decoder.set_attn_implementation({"": before})


@contextmanager
def written_out(model: Model, taken: dict[int, torch.Tensor], mode: object) -> Iterator[None]:
    """Inside, the decoder's attention lacks `taken` (samples, heads, slots, slots) by block; blind queries get zero."""

    def forward(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: torch.Tensor,
        scaling: float,
        softcap: float | None = None,
        position_bias: torch.Tensor | None = None,
        s_aux: torch.Tensor | None = None,
        sinks: torch.Tensor | None = None,
        **_: object,
    ) -> tuple[torch.Tensor, None]:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = torch.einsum("bhqd,bhkd->bhqk", query, key) * scaling
        scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
        scores = scores if position_bias is None else scores + position_bias
        if s_aux is not None:
            sinks = s_aux.view(1, -1, 1, 1).expand(*scores.shape[:3], 1)
        hidden, cut = mask < 0, taken.get(module.layer_idx, torch.tensor(False))
        scores = scores.masked_fill(hidden | cut if mode == "pre" else hidden, -torch.inf)
        scores = scores if sinks is None else torch.cat([scores, sinks], -1)
        share = scores.softmax(-1)[..., : key.shape[2]].nan_to_num(0)
        return torch.einsum("bhqk,bhkd->bqhd", share.masked_fill(cut, 0), value), None

    AttentionInterface.register("written-out", forward)
    AttentionMaskInterface.register("written-out", eager_mask)
    try:
        with under(model, "written-out"):
            yield
    finally:
        del AttentionInterface._global_mapping["written-out"], AttentionMaskInterface._global_mapping["written-out"]


def _taken(model: Model, batch: Batch, spec: Spec, n_slots: int) -> torch.Tensor:
    """What the knockout takes, (samples, heads, slots, slots), query by query and key by key."""
    sides = [[side] if isinstance(side, str) else list(side) for side in (spec["queries"], spec["keys"])]
    taken = torch.zeros(len(batch), model.n_heads, n_slots, n_slots, dtype=torch.bool)
    for i, layout in enumerate(batch.layouts):
        found = [
            [positions(parse_role(x), layout, seed=0, sample_id=batch.sample_ids[i]) for x in side] for side in sides
        ]
        q, k = (np.concatenate([x for x in side if x is not None] or [np.empty(0, np.int64)]) for side in found)
        new = np.arange(batch.n_slots, n_slots) if len(k) and {"text", "all"} & set(sides[0]) else []
        for head in spec.get("heads", range(model.n_heads)):
            for slot in [*(q + batch.offset[i]), *new]:
                taken[i, head, slot, k + batch.offset[i]] = True
    return taken


@torch.no_grad()
def reference(model: Model, batch: Batch, spec: Spec, extra: torch.Tensor | None = None) -> torch.Tensor:
    """Logits of the prompt and `extra` tokens (samples, n) after the knockout: one forward, no cache, no hooks."""
    extra = torch.empty(len(batch), 0, dtype=torch.long) if extra is None else extra
    inputs = dict(batch.inputs)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], extra], 1)
    inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1)
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    taken = _taken(model, batch, spec, inputs["input_ids"].shape[1])
    by_block = dict.fromkeys(spec.get("layers", range(model.n_layers)), taken)
    with written_out(model, by_block, spec.get("mode", "pre")):
        return model.module(**inputs, use_cache=False).logits


def generated(
    model: Model, spec: Spec, texts: list[str], n: int = 5
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits (samples, steps, vocabulary) of cached generation under a knockout, those of the attention written out
    without cache, and those without a knockout."""
    batch = make(model, texts, left=True)
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    options = {"max_new_tokens": n, "do_sample": False, "suppress_tokens": [model.image_token_id], "eos_token_id": None}
    with block_attention(model, batch, [parse_block(spec, n_layers=4)]), torch.no_grad():
        out = model.module.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)
    new = out.sequences[:, batch.n_slots :]
    wanted, plain = (
        reference(model, batch, one, new)[:, batch.n_slots - 1 : -1] for one in (spec, {**spec, "heads": []})
    )
    return torch.stack(out.logits, 1), wanted, plain
