"""Answers: the token that a word really has after the prompt, and answers that cannot be meant."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import actstore
import making
import speakers
from actstore.commands import main
from actstore.format.names import HEADER
from actstore_extract.families.words import WordError, said_after

RECIPE = """
check = false
[model]
path = "{folder}/lm"
dtype = "float32"
[samples]
source = "table"
path = "{folder}/t.jsonl"
[capture]
roles = ["last"]
answers = {answers}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("speakers")
    return {kind: speakers.save(folder / kind, kind) for kind in ("bytes", "pieces")}


def extract(folder, model, answers, *prompts, labels=(), status=0):
    if not (folder / "lm").exists():
        (folder / "lm").symlink_to(model)
    rows = [{"prompt": prompt} | ({"label": labels[i]} if labels else {}) for i, prompt in enumerate(prompts)]
    (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "r.toml").write_text(RECIPE.format(folder=folder, answers=answers))
    assert main.run(["extract", str(folder / "r.toml"), str(folder / "s"), "--device", "cpu"]) == status
    return actstore.open(folder / "s") if status == 0 else None


def follows(model, prompt, word):
    """The probability of the first token of `word`, as text that is tokenized with the prompt has it."""
    tokens, lm = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    before = tokens(prompt, return_tensors="pt").input_ids
    whole = tokens(prompt + word).input_ids
    assert whole[: before.shape[1]] == before[0].tolist()
    with torch.no_grad():
        return lm(before).logits[0, -1].softmax(-1)[whole[before.shape[1]]].item()


@pytest.mark.parametrize("kind", ["bytes", "pieces"])
@pytest.mark.parametrize(("prompt", "space"), [("this animal is a", " "), ("this animal is a\n", ""), ("[/INST]", "")])
def test_answers_are_words_as_they_follow_the_prompt(models, tmp_path, kind, prompt, space):
    store = extract(tmp_path, models[kind], '["dog", "cat"]', prompt)
    found = store.sql("select answer_probabilities from samples").item().to_list()
    expected = [follows(models[kind], prompt, f"{space}{word}") for word in ("dog", "cat")]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_word_with_a_space_is_taken_as_it_is(models):
    for kind, model in models.items():
        words = AutoTokenizer.from_pretrained(model)
        for word in ("dog", " dog"):
            first = said_after(words, ["this animal is a", "<image> dogs and a"], word)[0]
            assert first == words("this animal is a dog").input_ids[-1], kind
    words = AutoTokenizer.from_pretrained(models["bytes"])
    assert words.decode(said_after(words, ["a ("], "dog")) == "dog"
    assert words.decode(said_after(words, ["this<image>"], "dog")) == "dog"
    assert words("\n\n").input_ids != words("\n\ndog").input_ids[:-1]  # so that a word behind it cuts it otherwise
    assert words.decode(said_after(words, ["dog\n\n", "cat\n"], "dog")) == "dog"
    with pytest.raises(WordError, match=r"joins 'this animal is a ' and 'dog'.*end the prompt otherwise"):
        said_after(words, ["this animal is a "], "dog")


@pytest.mark.parametrize(
    ("answers", "prompts", "labels", "message"),
    [
        ('["dog"]', ["this is a", "is\n"], (), "'dog' begins with ' dog' after 'this is a' and 'dog' after '\\n'"),
        ('["{capital}"]', ["a"], (), "'{capital}' has braces, but answers are words"),
        ('"dog"', ["a"], (), "answers: 'dog' is neither a list of words"),
        ('{ label = "dog" }', ["a"], (), "the samples have no column label: list the words"),
        ('{ label = "dog" }', ["a", "a"], ("cat", "ox"), "no sample is of class 'label'; the column label has cat, ox"),
        ('{ cat = "cat", dgo = "dog" }', ["a", "a"], ("cat", "dog"), "of class 'dgo'; did you mean 'dog'?"),
        ('{ cat = "" }', ["a"], ("cat",), "'' is no word of this model's tokenizer"),
    ],
)
def test_answers_that_cannot_be_meant(models, tmp_path, capsys, answers, prompts, labels, message):
    extract(tmp_path, models["bytes"], answers, *prompts, labels=labels, status=1)
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()


def test_classes_may_be_numbers(models, tmp_path):
    store = extract(tmp_path, models["bytes"], '{ 0 = "dog", 1 = "cat" }', "a", "a", labels=(0, 1))
    assert list(store.run["answer_tokens"]) == ["0", "1"]


@pytest.mark.parametrize("way", ["repair", "extract"])
@pytest.mark.parametrize("older", [False, True])
def test_a_store_keeps_the_tokens_that_its_answers_had(models, tmp_path, older, way):
    """Those of its run card; without them, those of the words alone, as the versions before it had."""
    words = AutoTokenizer.from_pretrained(models["bytes"])
    alone = words("dog").input_ids[0]
    store = extract(tmp_path, models["bytes"], '["dog"]', "this animal is a")
    assert store.run["answer_tokens"]["dog"] != alone
    run = store.run | {"answer_tokens": {"dog": alone}}
    if older:
        del run["answer_tokens"]
    commit = making.record(store.path, 0)
    making.change(store.path / HEADER, run=run)
    making.change(commit, store=json.loads((store.path / HEADER).read_bytes())["crc32c"])
    (next(store.path.glob("parts/*")) / "rows.parquet").unlink()
    if way == "extract":
        commit.unlink()
    words_of = {"repair": [str(store.path)], "extract": [str(tmp_path / "r.toml"), str(store.path)]}
    assert main.run([way, *words_of[way], "--device", "cpu"]) == 0
    found = actstore.open(store.path).sql("select answer_probabilities[1] p from samples").item()
    lm = AutoModelForCausalLM.from_pretrained(models["bytes"])
    ids = words("this animal is a", return_tensors="pt").input_ids
    with torch.no_grad():
        assert found == pytest.approx(lm(ids).logits[0, -1].softmax(-1)[alone].item(), rel=1e-5)
