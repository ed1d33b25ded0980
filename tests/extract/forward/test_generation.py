"""Generated texts are the model's own, under knockouts too, with and without a cache."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.families import Batch, Model
from actstore_extract.forward import generation
from actstore_extract.forward.generation import GenerationError, generate, in_force, together
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
    assert generate(model, batch, max_new_tokens=N, way="checkpoint") == plain
    assert config.do_sample
    assert config.suppress_tokens is None
    word = model.tokenizer.convert_tokens_to_ids("one")
    config.repetition_penalty, config.suppress_tokens = 3.0, [word]
    other = generate(model, batch, max_new_tokens=N, way="checkpoint")
    assert other != plain
    assert not any("one" in text for text in other)
    assert generate(model, batch, max_new_tokens=N) == plain  # which is greedy and no more
    assert model.module.generation_config is config
    table = {"repetition_penalty": 3.0, "suppress_tokens": [word]}
    assert generate(model, batch, max_new_tokens=N, way=table) == other
    ends = {"eos_token_id": config.eos_token_id, "pad_token_id": model.pad_token_id}
    unsaid = {"suppress_tokens": sorted([model.image_token_id, word])}
    assert in_force(model, table) == {**ends, **unsaid, "repetition_penalty": 3.0, "cache_implementation": "dynamic"}
    assert in_force(model, "checkpoint") == in_force(model, table)
    assert in_force(model) == {
        **ends, "suppress_tokens": [model.image_token_id], "cache_implementation": "dynamic"
    }  # fmt: skip


def test_texts_end_where_the_checkpoint_says(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("chameleon")
    batch, seen = make(model, TEXTS[:1]), []
    monkeypatch.setattr(generation, "_texts", lambda _, tokens: seen.append(tokens[0].tolist()) or [""])
    generate(model, batch, max_new_tokens=N)
    end = seen[0][2]
    whole = seen[0][: seen[0].index(end) + 1]
    assert len(whole) < len(seen[0])
    model.module.generation_config.eos_token_id = end
    generate(model, batch, max_new_tokens=N)
    model.module.generation_config.eos_token_id = None
    generate(model, batch, max_new_tokens=N, way={"eos_token_id": [model.image_token_id, end]})
    generate(model, batch, max_new_tokens=N)
    assert seen[1:3] == [whole, whole]
    assert seen[3][: len(whole)] == whole
    assert len(seen[3]) == N


RECIPE = """
check = false
[model]
path = "model"
[samples]
source = "table"
path = "texts.jsonl"
[prompt]
text = "{text}"
[capture]
roles = ["last"]
max_new_tokens = 6
generation = "checkpoint"
"""


@torch.no_grad()
def unrepeated(model: Model, text: str) -> str:
    """The likeliest words that neither the text nor what was said of it has, without cache and without `generate`."""
    tokens = model.tokenizer(text, return_tensors="pt")["input_ids"]
    start, end = tokens.shape[1], model.module.generation_config.eos_token_id
    while tokens.shape[1] < start + N and tokens[0, -1] != end:
        logits = model.module(tokens).logits[0, -1].index_fill(0, tokens[0], -torch.inf)
        tokens = torch.cat([tokens, logits.argmax()[None, None]], 1)
    return model.tokenizer.decode(tokens[0, start:], skip_special_tokens=True)


def test_what_counts_the_words_of_a_prompt_does_not_count_what_fills_it_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No word twice: with the end token as padding, shorter prompts could not end."""
    monkeypatch.chdir(tmp_path)
    model, texts = tiny.model("llama"), ["is", "this digit", "this digit is a", "one two this is a one", "a is"]
    model.module.generation_config.no_repeat_ngram_size = 1
    model.tokenizer.pad_token = "</s>"
    tiny.save(model, Path("model"))
    Path("texts.jsonl").write_text("".join(json.dumps({"sample_id": text, "text": text}) + "\n" for text in texts))
    Path("recipe.toml").write_text(RECIPE)
    assert run(["extract", "recipe.toml", "store"]) == 0
    said = dict(actstore.open("store").sql("select sample_id, generated_text from samples").iter_rows())
    assert said == {text: unrepeated(model, text) for text in texts}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("no_repeat_ngram_size", 2),
        ("min_length", 2),
        ("forced_bos_token_id", 0),
        ("encoder_repetition_penalty", 1.5),
        ("encoder_no_repeat_ngram_size", 2),
    ],
)
def test_where_padding_would_count_prompts_of_one_length_go_together(name: str, value: float) -> None:
    model = tiny.model("llama")
    encoded = [model.encode(prompt._replace(image=None)) for prompt in tiny.prompts(["one", "one two", "two"])]
    assert together(model, encoded, "checkpoint") == [[0, 1, 2]]
    setattr(model.module.generation_config, name, value)
    assert together(model, encoded) == [[0, 1, 2]]
    whose = {"checkpoint": "this model's generation config", "table": r"\[capture\] generation"}
    for way in ("checkpoint", {name: value}):
        assert together(model, encoded, way) == [[0, 2], [1]]
        with pytest.raises(GenerationError, match=f"{name} of {whose.get(str(way), whose['table'])} would count"):
            generate(model, model.collate(encoded, left=True), max_new_tokens=1, way=way)
        pair = model.collate([encoded[0], encoded[2]], left=True)
        assert len(generate(model, pair, max_new_tokens=1, way=way)) == 2


def test_a_generation_config_that_cannot_be_followed_is_one_line() -> None:
    model = tiny.model("chameleon")
    model.module.generation_config.prompt_lookup_num_tokens = 3  # of single samples alone
    with pytest.raises(GenerationError, match=r"cannot generate by this model's .* batch_size = 1; take generation ="):
        generate(model, make(model, TEXTS), max_new_tokens=N, way="checkpoint")
    with pytest.raises(GenerationError, match=r"cannot generate by \[capture\] generation: .* take the option out"):
        generate(model, make(model, TEXTS), max_new_tokens=N, way={"repetition_penalty": "much"})


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
