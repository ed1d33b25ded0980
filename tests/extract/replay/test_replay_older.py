"""Replays of models of text alone whose blocks call their cache layer_past, and those that are refused."""

import numpy as np
import pytest

import tiny
from actstore_extract.families import Model
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.interventions.blocks import parse_block
from actstore_extract.replay import Branch, Job, Kept, Put, Replay, ReplayError
from older import older
from replaying import apart, knocked_out, online

TEXTS = ["this is a one , this digit is a", "one two three , this is a two , this digit is a"]
AT = np.array([5])
ROUNDING = 2e-5


def residual(model: Model, text: str) -> Kept:
    """A sample as a store without keys and values has it."""
    encoded = model.encode(tiny.prompts([text])[0])
    everywhere = [Selection(np.arange(encoded.length))]
    x = capture(model, model.collate([encoded]), everywhere, layers=range(model.n_layers + 1)).residual.float().numpy()
    return Kept(encoded.sample_id, encoded.layout, lambda layer, at: x[layer][at])


@pytest.mark.parametrize("name", ["falcon", "gpt_neox", "gptj"])
def test_patches_and_knockouts_behind_a_prefix_are_those_of_the_models_own_forward(name: str) -> None:
    model = older(name)
    source, receiver = (residual(model, text) for text in TEXTS)
    encoded = [model.encode(tiny.prompts([text])[0]) for text in TEXTS]
    there = Put(AT, lambda layer: source.residual(layer, AT))
    branches = tuple(Branch(layer, there) for layer in (0, 1, 3))
    for branch, logits in zip(branches, Replay(model).packed([Job(receiver, branches, 5)])[0], strict=True):
        assert apart(logits, online(model, *encoded, (AT, AT), "residual", [branch.layer])) < ROUNDING
    block = parse_block({"queries": ["last-1", "last-2", "last-3"], "keys": ["at-1", "at-8"]}, n_layers=4)
    job = Job(receiver, (Branch(0), Branch(1)), receiver.layout.length - 4)
    found = Replay(model, blocked=[block]).packed([job])[0]
    assert apart(found[0], knocked_out(model, encoded[1], [block])) < ROUNDING


def test_what_cannot_be_gone_on_with() -> None:
    with pytest.raises(ReplayError, match="GPTBigCodeForCausalLM adds its wpe to whatever enters its first block"):
        Replay(older("gpt_bigcode"))
    alibi = older("falcon", alibi=True)
    kept = residual(alibi, TEXTS[0])
    replay, job = Replay(alibi), Job(kept, (Branch(0), Branch(1)), 5)
    with pytest.raises(ReplayError, match="are given alibi, of all slots: replay whole forwards .--method full"):
        replay.packed([job])
    assert apart(replay.full(kept, Branch(1)), knocked_out(alibi, alibi.encode(tiny.prompts(TEXTS)[0]), [])) < ROUNDING
