"""Words that a tokenizer does not know are said once, and how many samples have them."""

import actstore
from actstore.commands import main

RECIPE = """
[model]
path = "digits-fusion"
[samples]
source = "digits"
limit = 3
[prompt]
text = "<image>this {label} circle is a"
[capture]
roles = ["last"]
answers = ["%s"]
"""


def test_unknown_words_of_prompts_are_said_once(tmp_path, capsys):
    (tmp_path / "r.toml").write_text(RECIPE % "one")
    assert main.run(["extract", str(tmp_path / "r.toml"), str(tmp_path / "s"), "--device", "cpu"]) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "does not know" in line]
    assert line.startswith(
        "the tokenizer does not know 'circle', in the prompts of 3 of 3 samples, and reads <unk> there"
    )
    assert "digit" in line
    store = actstore.open(tmp_path / "s")
    assert store.sql("select count(*) as n from samples where prompt like '%circle%'")["n"].item() == 3


def test_an_answer_that_is_no_word_names_some_that_are(tmp_path, capsys):
    (tmp_path / "r.toml").write_text(RECIPE % "circle")
    assert main.run(["extract", str(tmp_path / "r.toml"), str(tmp_path / "s"), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert "'circle' is no word of this model's tokenizer; take one it knows (" in said
