"""Samples asked in a chat: what is stored, and that runs go on and are repeated with it."""

import json

import pytest
from transformers import AutoTokenizer

import actstore
import speakers
from actstore.commands import main
from actstore.format.header import Header
from actstore_analyze.study.words import _prompts
from actstore_extract.recipe.recipe import RecipeError, load, recorded

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.content }} {% endfor %}{% if add_generation_prompt %}one :{% endif %}"
)
CHAT = ["prompt.chat=true", f"prompt.chat_template={TEMPLATE!r}", "prompt.turns=[{ user = 'this', assistant = 'is' }]"]


def run(word, *arguments, changes=()):
    return main.run([word, *map(str, arguments), *(part for one in changes for part in ("--set", one))])


def test_a_run_in_a_chat_goes_on_and_is_repeated(tmp_path, capsys):
    small = [
        "samples.limit=4",
        "capture.roles=['last', 'text', 'all']",
        "capture.lens=true",
        "capture.answers=['zero']",
    ]
    store = tmp_path / "s"
    assert run("extract", "digits-fusion", store, "--device", "cpu", changes=[*small, *CHAT]) == 0
    opened = actstore.open(store)
    tokens = opened.sql(
        "select v.token from rows join vocab v using (token_id) where role = 'all' and modality <> 'image' "
        "and sample_id = 'digit-0000' order by position"
    )["token"].to_list()
    assert tokens[:3] == ["<s>", "this", "is"]
    assert tokens[-3:] == ["one", ":", "<reserved08706>"]  # Chameleon's processor ends chats so
    assert opened.run["chat_end"] == " one :<reserved08706>"
    assert all(prompt.endswith(" one :<reserved08706>") for prompt in _prompts(opened))
    capsys.readouterr()
    assert run("extract", "digits-fusion", store, "--device", "cpu", changes=[*small, *CHAT]) == 0
    assert "0 of 4 samples left" in capsys.readouterr().err
    assert run("recompute", store, "-n", 2, "--device", "cpu") == 0
    assert run("extract", "digits-fusion", store, "--device", "cpu", changes=[*small, *CHAT[:2]]) == 1
    assert "prompt.turns: [{'user': 'this', 'assistant': 'is'}] in the store, [] now" in capsys.readouterr().err


def test_what_is_said_before_takes_columns_of_the_sample(tmp_path):
    """Of each its own, when the store is made and when it is run again."""
    changes = [*CHAT[:2], "samples.limit=3", "capture.roles=['all']", "prompt.system='{label}'"]
    changes += ["prompt.turns=[{ user = 'this', assistant = '{label}' }]"]
    assert run("extract", "digits-fusion", tmp_path / "s", "--device", "cpu", changes=changes) == 0
    found = actstore.open(tmp_path / "s").sql(
        "select label, list(token order by position) as tokens from rows join vocab using (token_id) "
        "where modality = 'text' group by all"
    )
    for label, tokens in found.iter_rows():
        assert tokens[:3] == [label, "this", label]
    assert found["label"].n_unique() == 3
    assert run("recompute", tmp_path / "s", "-n", 2, "--device", "cpu") == 0


def test_answers_follow_the_chats_end(tmp_path):
    """ "dog" behind a space after "is", and without one after the special token that ends this chat."""
    model = speakers.save(tmp_path / "lm")
    words = AutoTokenizer.from_pretrained(model)
    words.chat_template = (
        "{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %}[/INST]{% endif %}"
    )
    words.save_pretrained(model)
    (tmp_path / "t.jsonl").write_text(json.dumps({"prompt": "this animal is"}))
    (tmp_path / "r.toml").write_text(
        f'[model]\npath = "{model}"\ndtype = "float32"\n[samples]\nsource = "table"\npath = "{tmp_path}/t.jsonl"\n'
        '[prompt]\nchat = true\n[capture]\nroles = ["last"]\nanswers = ["dog"]\n'
    )
    for chat, before in (("true", "this animal is[/INST]"), ("false", "this animal is ")):
        store = tmp_path / chat
        assert run("extract", tmp_path / "r.toml", store, "--device", "cpu", changes=[f"prompt.chat={chat}"]) == 0
        token = words(before.rstrip() + (" " if chat == "false" else "") + "dog").input_ids[-1]
        assert Header.load(store).run["answer_tokens"] == {"dog": token}


def test_recipes_that_cannot_be_asked_in_a_chat(tmp_path, capsys):
    with pytest.raises(RecipeError, match="system is of a chat: set chat = true"):
        load("digits-fusion", ["prompt.system='a'"])
    assert run("extract", "digits-fusion", tmp_path / "s", changes=["prompt.chat=true", "samples.limit=2"]) == 1
    assert "has no chat template: give one as chat_template, or ask without" in capsys.readouterr().err
    changes = [*CHAT, "prompt.system='a {lable}'", "samples.limit=2"]
    assert run("extract", "digits-fusion", tmp_path / "s", changes=changes) == 1
    assert "[prompt] system: the samples have no column 'lable'; did you mean 'label'?" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_cards_from_before_chats_are_of_plain_prompts():
    record = load("digits-fusion").record()
    record["prompt"] = {"text": record["prompt"]["text"]}
    assert recorded(record, "a card").record() == load("digits-fusion").record()
