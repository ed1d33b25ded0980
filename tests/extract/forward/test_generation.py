"""Generated texts are the model's own, under knockouts too, with and without a cache."""

from collections.abc import Sequence

import pytest
import torch

import tiny
from actstore_extract.families import Batch, Model
from actstore_extract.forward import generation
from actstore_extract.forward.generation import GenerationError, generate
from actstore_extract.interventions.blocks import always_blocked, block_attention, own_blocks, parse_block

TEXTS = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a", "one two <image>"]
N = 6


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


def make(model: Model, texts: list[str], *, left: bool = True) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


def own(model: Model, batch: Batch, **options: object) -> list[str]:
    """What the model generates when it is asked directly."""
    inputs = {k: v for k, v in batch.inputs.items() if k != "position_ids"}
    with torch.no_grad():
        tokens = model.module.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=N,
            pad_token_id=model.pad_token_id,
            suppress_tokens=[model.image_token_id],
            **options,
        )
    return model.tokenizer.batch_decode(tokens[:, batch.n_slots :], skip_special_tokens=True)


@torch.no_grad()
def recomputed(model: Model, batch: Batch, blocks: Sequence[dict[str, object]] = (), n: int = N) -> list[str]:
    """Greedy texts by one whole forward per token, without cache and without `generate`."""
    inputs, start = dict(batch.inputs), batch.n_slots
    parsed = [parse_block(block, n_layers=model.n_layers) for block in blocks]
    for _ in range(n):
        with block_attention(model, batch, [*own_blocks(model), *parsed]):
            logits = model.module(**inputs, use_cache=False).logits[:, -1]
        logits[:, model.image_token_id] = -torch.inf
        inputs["input_ids"] = torch.cat([inputs["input_ids"], logits.argmax(-1, keepdim=True)], 1)
        inputs["attention_mask"] = torch.nn.functional.pad(inputs["attention_mask"], (0, 1), value=1)
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    tokens = inputs["input_ids"][:, start:].tolist()
    end = model.module.generation_config.eos_token_id
    ended = [row[: row.index(end)] if end in row else row for row in tokens]
    return model.tokenizer.batch_decode(ended, skip_special_tokens=True)


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS])
def test_equal_to_the_models_own(model: Model, texts: list[str]) -> None:
    batch = make(model, texts)
    found = generate(model, batch, max_new_tokens=N)
    assert len(found) == len(texts)
    assert found == own(model, batch)
    assert found == recomputed(model, batch)
    assert any(found)


def test_nothing_is_printed(model: Model, capfd: pytest.CaptureFixture[str]) -> None:
    generate(model, make(model, TEXTS[:1]), max_new_tokens=1)
    assert capfd.readouterr() == ("", "")


def test_a_padded_sample_says_what_it_says_alone(model: Model) -> None:
    alone = [generate(model, make(model, [text]), max_new_tokens=N) for text in TEXTS[:1]]
    assert generate(model, make(model, TEXTS), max_new_tokens=N)[0] == alone[0][0]


KNOCKOUTS = [
    {"queries": "text", "keys": "image", "mode": "post"},
    {"queries": "text", "keys": "image", "mode": "pre"},
    {"queries": "all", "keys": "image", "mode": "post", "layers": [1, 2], "heads": [0, 2]},
]


@pytest.mark.parametrize("block", KNOCKOUTS)
def test_knocked_out_with_a_cache_as_without(model: Model, block: dict[str, object]) -> None:
    batch = make(model, TEXTS[:2])
    with block_attention(model, batch, [parse_block(block, n_layers=4)]):
        found = generate(model, batch, max_new_tokens=N)
    assert found == recomputed(model, batch, [block])


def test_the_models_own_blocks_hold() -> None:
    plain = tiny.model("chameleon")
    gated = always_blocked(Model(plain.module, plain.processor), [KNOCKOUTS[0]])
    batch = make(plain, TEXTS[:2])
    found = generate(gated, batch, max_new_tokens=N)
    assert found == recomputed(plain, batch, [KNOCKOUTS[0]])
    assert found != generate(plain, batch, max_new_tokens=N)


def test_the_image_token_is_never_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("chameleon")
    batch, token = make(model, TEXTS[:1]), model.image_token_id

    def want_images(_: object, __: object, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor([token]), 1e4)

    handle = model.module.lm_head.register_forward_hook(want_images)
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(generation, "_texts", lambda _, tokens: seen.append(tokens) or [""])
    generate(model, batch, max_new_tokens=3)
    handle.remove()
    assert not (seen[0] == token).any()
    assert seen[0].shape == (1, 3)


def test_the_generation_config_of_the_model() -> None:
    model = tiny.model("chameleon")
    batch, config = make(model, TEXTS), model.module.generation_config
    plain = generate(model, batch, max_new_tokens=N)
    config.do_sample, config.temperature, config.top_p, config.top_k = True, 9.0, 0.9, 5
    config.cache_implementation = "static"  # neither sampling nor its cache
    assert generate(model, batch, max_new_tokens=N) == plain
    assert config.do_sample
    assert config.suppress_tokens is None
    config.repetition_penalty = 3.0
    config.suppress_tokens = [model.tokenizer.convert_tokens_to_ids("one")]
    other = generate(model, batch, max_new_tokens=N)
    assert other != plain
    assert not any("one" in text for text in other)


def test_texts_end_at_a_stop() -> None:
    model = tiny.model("chameleon")
    batch, steps = make(model, TEXTS), []
    plain = generate(model, batch, max_new_tokens=N)
    words = [text.split() for text in plain]
    stop = words[0][2]
    expected = [text[: text.find(stop)] if stop in text else text for text in plain]
    assert generate(model, batch, max_new_tokens=N, stop=[stop]) == expected
    assert expected[0] != plain[0]
    handle = model.module.lm_head.register_forward_hook(lambda *_: steps.append(1))
    stopped = generate(model, batch, max_new_tokens=N, stop=[row[0] for row in words if row])
    handle.remove()
    assert stopped == [""] * len(TEXTS)
    assert len(steps) < N  # nobody waits for what is cut off


def test_bad_requests() -> None:
    model = tiny.model("chameleon")
    with pytest.raises(GenerationError, match="collate the batch with left=True"):
        generate(model, make(model, TEXTS, left=False), max_new_tokens=N)
    assert generate(model, make(model, TEXTS[:1], left=False), max_new_tokens=1)  # nothing is padded
    with pytest.raises(GenerationError, match="max_new_tokens 0"):
        generate(model, make(model, TEXTS), max_new_tokens=0)
