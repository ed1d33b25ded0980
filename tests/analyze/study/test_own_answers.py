"""Each sample's own answer: kept as a column, and what lens, knockout, patch and replays hold what was said against."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import actstore
import tiny
from actstore.commands import main
from actstore_analyze.study import answers

KINDS = ["one", "two", "three", "four", "five", "six"]
OTHER = {kind: KINDS[(i + 1) % 6] for i, kind in enumerate(KINDS)}  # the answer after it
TOML = """
conditions = [
    {{ name = "kind-knockout", keys = "word-kind", queries = "last", layers = [2, 3] }},
    {{ name = "kind-patch", patch = "word-kind", layers = [0, 4], by = "kind", pairs = [
        ["one", "two"], ["two", "one"]] }},
    {{ name = "one-patch", patch = "word-kind", layers = [0], by = "sample_id", pairs = [["s2", "s0"]] }},
]
[model]
path = "{folder}/lm"
dtype = "float32"
[samples]
source = "table"
path = "{folder}/t.jsonl"
[prompt]
text = "this {{kind}} is a"
[capture]
roles = ["all", "word-kind"]
lens = true
answers = "{answers}"
"""


def asked(folder, wanted="{own}", *changes, status=0):
    rows = [{"sample_id": f"s{i}", "kind": one, "own": OTHER[one], "label": "ab"[i % 2]} for i, one in enumerate(KINDS)]
    (folder / "t.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "r.toml").write_text(TOML.format(folder=folder, answers=wanted))
    sets = [word for change in changes for word in ("--set", change)]
    assert main.run(["extract", str(folder / "r.toml"), str(folder / "s"), "--device", "cpu", *sets]) == status


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    tiny.save(tiny.model("llama"), folder / "lm")
    asked(folder)
    return actstore.open(folder / "s")


def test_own_words_are_kept_with_their_probabilities(store):
    lm, words = (one.from_pretrained(store.path.parent / "lm") for one in (AutoModelForCausalLM, AutoTokenizer))
    assert list(store.run["answer_tokens"]) == ["two", "three", "four", "five", "six", "one"]
    rows = store.sql(
        "select s.kind, s.truth, s.answer_probabilities p, a.probability own from samples s "
        "join answers a on a.sample_id = s.sample_id and a.condition = s.condition and a.answer = s.truth "
        "where s.condition = 'none' order by s.sample_id"
    )
    assert rows.height == len(KINDS)
    for kind, truth, p, own in rows.iter_rows():
        assert truth == OTHER[kind]
        with torch.no_grad():
            expected = lm(words(f"this {kind} is a", return_tensors="pt").input_ids).logits[0, -1].softmax(-1)
        ids = words.convert_tokens_to_ids(list(store.run["answer_tokens"]))
        np.testing.assert_allclose(p, expected[ids], rtol=1e-5)
        assert own == pytest.approx(expected[words.convert_tokens_to_ids(truth)].item(), rel=1e-5)


def table(capsys, *command):
    assert main.run([str(word) for word in (*command, "--format", "jsonl", "--force")]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def means(store, where, which="truth"):
    query = (
        f"select avg(probability) from answers join samples using (sample_id, condition) where answer = {which} and "
    )
    return store.sql(query + where).item()


def test_a_knockout_is_measured_by_them(store, capsys):
    found = {(row["knockout"], row["metric"]): row for row in table(capsys, "knockout", store.path)}
    for name in ("none", "kind-knockout"):
        assert found[name, "answer_probability"]["value"] == pytest.approx(means(store, f"condition = '{name}'"))
        share = store.sql(f"select avg((next_token = truth)::int) from samples where condition = '{name}'").item()
        assert found[name, "accuracy"]["value"] == pytest.approx(share)
    assert found["none", "accuracy"]["n"] == 6


def test_a_lens_reads_them(store, capsys):
    last = "from rows where k = 4 and condition = 'none'"
    (row,) = table(capsys, "lens", store.path, last, "--roles", "all", "--layers", 4, "--positions", 1)
    assert row["probability"] == pytest.approx(means(store, "condition = 'none'"), rel=1e-4)


def test_a_patch_prefers_the_own_answer_of_its_source(store, capsys):
    found = {(row["patch"], row["layer"]): row for row in table(capsys, "patch", store.path)}
    assert found["kind-patch", 0]["accuracy_before"] is not None
    for name, pairs in {"kind-patch": [("s0", "s1"), ("s1", "s0")], "one-patch": [("s2", "s0")]}.items():
        right = []
        for source, receiver in pairs:
            said = {
                row[0]: row[1]
                for row in store.sql(
                    "select answer, probability from answers "
                    f"where sample_id = '{receiver}' and condition = '{name}-l0'"
                ).iter_rows()
            }
            other, own = (OTHER[KINDS[int(one[1])]] for one in (source, receiver))
            right.append(said[other] > said[own])
        assert found[name, 0]["accuracy"] == np.mean(right)
        assert found[name, 0]["n"] == len(pairs)


def test_replays_are_held_against_them(store, capsys):
    (row,) = table(capsys, "patch", store.path, "--by", "kind", "--role", "word-kind", "--pairs", "one:two,two:one",
                   "--layers", "0")  # fmt: skip
    ran = next(one for one in table(capsys, "patch", store.path) if (one["patch"], one["layer"]) == ("kind-patch", 0))
    assert (row["accuracy"], row["accuracy_before"]) == (ran["accuracy"], ran["accuracy_before"])
    assert row["similarity"] == pytest.approx(ran["similarity"], abs=1e-3)
    command = ("knockout", store.path, "--replay", "{ keys = 'word-kind', queries = 'last' }", "--blocks", "2,3")
    replayed = {(row["knockout"] != "none", row["metric"]): row["value"] for row in table(capsys, *command)}
    online = {(row["knockout"] != "none", row["metric"]): row["value"] for row in table(capsys, "knockout", store.path)}
    for key in ((False, "accuracy"), (True, "accuracy"), (False, "answer_probability"), (True, "answer_probability")):
        assert replayed[key] == pytest.approx(online[key], abs=1e-4)


def test_what_no_sample_says_is_refused(store, tmp_path, capsys):
    (tmp_path / "lm").symlink_to(store.path.parent / "lm")
    for wanted, says in (
        ("{onw}", "[capture] answers: the samples have no column 'onw'; did you mean 'own'?"),
        ("dog", "nor each sample's own"),
        ("{own}d", "is no word of this model's tokenizer"),
    ):
        asked(tmp_path, wanted, status=1)
        assert says in " ".join(capsys.readouterr().err.split())
    asked(tmp_path, "{own}", 'samples.columns={ truth = "own", kind = "kind" }', status=1)
    assert "make a column 'truth', and the samples have one" in " ".join(capsys.readouterr().err.split())


def test_only_own_answers_change_what_is_right(store):
    assert answers.right(store, "label") == "truth"
    assert answers.own(store)["s0"] == store.run["answer_tokens"]["two"]
