"""The lens that is taken from a model says what the model says next."""

import json

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

import tiny
from actstore.commands.main import run
from actstore_analyze.lens.measure import read
from actstore_extract.families import Model
from actstore_extract.forward import capture as capture_module
from actstore_extract.forward.capture import Selection
from actstore_extract.run.lens import LensError, lens_of


@pytest.mark.parametrize("name", [*tiny.SYSTEMS, "llama"])
def test_the_lens_at_the_last_layer_is_what_the_model_says(name):
    """At its last token, with the ten likeliest tokens in their order, for every family."""
    model = tiny.model(name)
    text = "<image> this digit is a" if model.image_token_id is not None else "this digit is a"
    prompts = tiny.prompts([text] * 3)
    encoded = [model.encode(one if "<image>" in text else one._replace(image=None)) for one in prompts]
    lens = lens_of(model, encoded[0], "float32")
    last = [Selection(np.array([one.length - 1])) for one in encoded]
    found = capture_module.capture(model, model.collate(encoded), last, layers=[model.n_layers], next_token=True)
    true = found.next_logits.softmax(-1).topk(10)
    heard = read(lens, found.residual[0].numpy(), k=10)
    assert_array_equal(heard.tokens, true.indices.numpy())
    assert_allclose(heard.probabilities, true.values.numpy(), rtol=2e-4, atol=1e-6)


OTHERS = {
    "layer norm with shift": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=60, bos_token_id=1, eos_token_id=2)
    ),
    "scaled": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25, eos_token_id=2)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
}  # fmt: skip
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
}


def other(name):
    torch.manual_seed(0)
    module = tiny.spread(OTHERS[name]())
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight) * (weight.ndim == 1))
    return Model(module, tiny.model("llama").processor, family="generic")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_norms_and_heads(name, dtype):
    model = other(name)
    lens = lens_of(model, model.encode(tiny.prompts(["this digit is a"])[0]._replace(image=None)), dtype)
    assert lens.optics.norm == ("rmsnorm" if name == "divided" else "layernorm")
    assert lens.shift.any() == (name == "layer norm with shift")


def test_a_head_that_no_lens_has_is_refused():
    """What a family does not tell is noticed, not kept."""
    model = other("scaled")
    model.module.config.logit_scale = 1.0
    with pytest.raises(LensError, match=r"do not give what CohereForCausalLM says: logits are off by"):
        lens_of(model, model.encode(tiny.prompts(["this digit is a"])[0]._replace(image=None)), "float32")


def test_the_estimate_counts_it(capsys):
    words = ["extract", "digits-fusion", "nowhere", "--estimate", "--limit", "8", "--set", "capture.lens=true"]
    assert run(words) == 0
    found = {row["kept"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    n_tokens, d = found["lens"]["n"], 64
    assert n_tokens > 100
    assert found["lens"]["MB"] == round((n_tokens * d * 2 + n_tokens * 4 + 8 * d) / 1e6, 2)
