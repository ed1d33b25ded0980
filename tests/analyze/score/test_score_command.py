"""actstore score: what small stores say, scored by task, condition and split."""

import json
import re

import numpy as np
import polars as pl
import pytest
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_score, recall_score

import actstore
from actstore.commands.main import run
from actstore_analyze.score import cider, vqa_accuracy
from pages import Page
from speaking import speaking


def make_store(path, said, *, column="generated_text", failed=(), **columns):
    """Samples that said something, with columns of the plan; one vector each."""
    ids = [f"s{i}" for i in range(len(said))]
    plan = pl.DataFrame({"sample_id": ids, **columns}, strict=False)
    store = actstore.create(path, plan=plan, layers=[0], d_model=2)
    samples = pl.DataFrame(
        {
            "sample_id": ids,
            "status": ["failed" if i in failed else "ok" for i in range(len(ids))],
            "error": ["no image" if i in failed else None for i in range(len(ids))],
            column: pl.Series([None if i in failed else text for i, text in enumerate(said)], dtype=pl.String),
        }
    )
    if "condition" in columns:
        samples = samples.with_columns(condition=pl.Series(columns["condition"]))
    done = samples.filter(pl.col("status") == "ok")
    rows = done.select("sample_id", *(["condition"] if "condition" in columns else []), role=pl.lit("last"))
    store.write(0, samples=samples, rows=rows, residual={"last": np.ones((1, rows.height, 2), np.float32)})
    return path


def command(capsys, *arguments):
    """Exit status, the table, and what was said on standard error."""
    status = run(["score", *map(str, arguments)])
    out, err = capsys.readouterr()
    return status, [json.loads(line) for line in out.splitlines()], err


def by_metric(rows, split="all"):
    return {row["metric"]: row for row in rows if row["split"] == split}


def test_vqa(tmp_path, capsys):
    truths = [["2"] * 3 + ["3"] * 7, ["red"] * 10, ["a dog"] + ["cat"] * 9, ["yes"] * 10]
    said = [" Two!\n", "red", "dog", "no"]
    store = make_store(tmp_path / "s", said, answers=truths, split=["val", "val", "test", None])
    _, rows, err = command(capsys, store, "--task", "vqa")
    each = [vqa_accuracy(*pair) for pair in zip(said, truths, strict=True)]
    assert each == pytest.approx([0.9, 1, 0.3, 0])
    of_all = {row["split"]: row["score"] for row in rows if row["metric"] == "vqa_of_all"}
    assert of_all == pytest.approx({"all": (1 + 1 + 1 / 3) / 4, "test": 1 / 3, "val": 1})
    found = {row["split"]: row for row in rows if row["metric"] == "vqa_accuracy"}
    assert {name: row["score"] for name, row in found.items()} == pytest.approx({"all": 0.55, "test": 0.3, "val": 0.95})
    assert [found[name]["n"] for name in ("all", "test", "val")] == [4, 1, 2]
    assert (found["all"]["said"], found["all"]["truth"]) == ("generated_text", "answers")
    assert 0 <= found["all"]["low"] < 0.55 < found["all"]["high"] <= 1
    assert (found["test"]["low"], found["test"]["high"]) == (found["test"]["score"],) * 2
    expected = "task metric condition split score low high n said truth"
    assert " ".join(rows[0]) == expected
    assert "saved as" in err
    assert "recalled from" in command(capsys, store, "--task", "vqa")[2]


def test_the_bootstrap_agrees_with_the_normal_approximation(tmp_path, capsys):
    rng = np.random.default_rng(0)
    matches = rng.integers(0, 5, 900)
    truths = [["yes"] * int(n) + ["no"] * int(10 - n) for n in matches]
    store = make_store(tmp_path / "s", ["yes"] * 900, answers=truths)
    row, _ = command(capsys, store, "--task", "vqa")[1]
    each = np.array([0, 0.3, 0.6, 0.9, 1])[matches]
    assert row["score"] == pytest.approx(each.mean())
    half = 1.96 * each.std() / 30
    assert (row["low"], row["high"]) == pytest.approx((each.mean() - half, each.mean() + half), abs=0.004)


def test_cider(tmp_path, capsys):
    captions = [["a cat", "one cat"], ["the dog runs", "a dog"], ["a red bus on a road", "bus"]]
    said = ["A cat.", "a dog runs", "a bus on a road"]
    store = make_store(tmp_path / "s", said, captions=captions, split=["x", "x", "y"])
    _, rows, _ = command(capsys, store, "--task", "cider")
    found = by_metric(rows)
    assert found["cider"]["score"] == pytest.approx(cider(said, captions))
    assert found["cider_d"]["score"] == pytest.approx(cider(said, captions, variant="d"))
    assert found["cider_ptb"]["score"] == pytest.approx(cider(said, captions, tokens="ptb"))
    assert found["cider_d_ptb"]["score"] == pytest.approx(cider(said, captions, variant="d", tokens="ptb"))
    assert by_metric(rows, "x")["cider"]["score"] == pytest.approx(cider(said[:2], captions[:2]))
    assert by_metric(rows, "y")["cider"]["score"] == 0  # one image: every word is in all references


def test_pope(tmp_path, capsys):
    said = ["yes", "Yes ", "no", "yes", "no", "perhaps", "yes", "no"]
    truth = ["yes", "yes", "yes", "no", "no", "yes", "no", "no"]
    store = make_store(tmp_path / "s", said, column="next_token", label=truth)
    _, rows, _ = command(capsys, store, "--task", "pope")
    found = by_metric(rows)
    own = [text.strip().lower() == "yes" for text in said]
    true = [text == "yes" for text in truth]
    assert found["precision"]["score"] == pytest.approx(precision_score(true, own))
    assert found["recall"]["score"] == pytest.approx(recall_score(true, own))
    assert found["f1"]["score"] == pytest.approx(f1_score(true, own))
    assert (found["accuracy"]["score"], found["unclear"]["score"], found["yes"]["score"]) == (0.5, 0.125, 0.5)
    for metric, right, n in (("accuracy", 4, 8), ("precision", 2, 4), ("recall", 2, 4), ("unclear", 1, 8)):
        wilson = binomtest(right, n).proportion_ci(method="wilson")
        assert (found[metric]["low"], found[metric]["high"]) == pytest.approx(tuple(wilson)), metric
    assert found["f1"]["low"] < found["f1"]["score"] < found["f1"]["high"]
    assert [row["metric"] for row in rows] == ["accuracy", "precision", "recall", "f1", "yes", "unclear"]


def test_pope_without_a_yes(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["no", "no"], label=["no", "no"])
    found = by_metric(command(capsys, store, "--task", "pope")[1])
    assert [found["precision"][name] for name in ("score", "low", "high")] == [0, 0, 1]
    assert [found["f1"][name] for name in ("score", "low", "high")] == [0, 0, 0]


def test_mme_sums_what_both_questions_of_an_image_make(tmp_path, capsys):
    images = ["a", "a", "b", "b", "c", "c", "d", "d"]
    said = ["Yes.", "no", "yes", "Yes, it is", "no way", "No.", "maybe", "no"]
    truth = ["yes", "no"] * 4
    tasks = ["existence"] * 4 + ["code_reasoning"] * 2 + ["count"] * 2
    store = make_store(tmp_path / "s", said, image=images, label=truth, split=tasks)
    rows = command(capsys, store, "--task", "mme")[1]
    found = {(row["split"], row["metric"]): row["score"] for row in rows}
    assert found == pytest.approx(
        {
            ("all", "perception"): 75 + 50 + 50 + 0,  # existence: 3 of 4 and 1 of 2; count: 1 of 2 and 0 of 1
            ("all", "cognition"): 50,
            ("existence", "points"): 125,
            ("existence", "accuracy"): 0.75,
            ("existence", "accuracy_plus"): 0.5,
            ("count", "points"): 50,
            ("count", "accuracy"): 0.5,
            ("count", "accuracy_plus"): 0,
            ("code_reasoning", "points"): 50,
            ("code_reasoning", "accuracy"): 0.5,
            ("code_reasoning", "accuracy_plus"): 0,
        }
    )
    (perception,) = (row for row in rows if row["metric"] == "perception")
    assert (perception["low"], perception["high"]) == (100, 250)  # image a has 200 points, image b 50


def test_mme_takes_pairs_alone(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["yes"] * 3, image=["a", "a", "b"], label=["yes", "no", "yes"])
    status, _, err = command(capsys, store, "--task", "mme")
    assert (status, "MME asks two questions about an image, b has 1: leave it out" in err) == (1, True)


def test_mme_of_a_mirror_that_numbers_its_images(tmp_path, capsys):
    said, true, pair = ["yes", "no", "yes", "yes"], ["yes", "no"] * 2, ["a", "a", "b", "b"]
    numbered = {"label": true, "image": ["0", "1", "2", "3"]}
    _, rows, err = command(capsys, make_store(tmp_path / "s", said, **numbered, question_id=pair), "--task", "mme")
    assert by_metric(rows)["points"]["score"] == 75 + 50
    assert "those of one question_id" in err
    other = make_store(tmp_path / "other", said, **numbered, name=pair)
    status, _, err = command(capsys, other, "--task", "mme")
    asked = re.search('another column is to tell .*: "(.*)"', err)
    assert (status, asked is not None) == (1, True)
    rows = command(capsys, other, asked[1].replace("COLUMN", "name"), "--task", "mme")[1]
    assert by_metric(rows)["points"]["score"] == 75 + 50


def test_llava_bench_is_rated_by_a_judge_once(tmp_path, capsys):
    said = ["a dog", "a cat", "a bird", "nothing"]
    columns = {"question": ["What?"] * 4, "context": ["It is a dog."] * 4, "answer": ["dog", "cat", "bird", "fish"]}
    store = make_store(tmp_path / "s", said, **columns, split=["conv", "conv", "detail", "detail"])

    def reply(body):
        (part,) = body["messages"][0]["content"]
        text = part["text"]
        assert text.startswith("[Context]\nIt is a dog.\n\n[Question]\nWhat?\n\n[Assistant 1]\n")
        own = next(one for one in said if f"[Assistant 2]\n{one}\n" in text)
        return {"a dog": "8 4\nOne is better.", "a cat": "10, 5.5", "a bird": "6 6", "nothing": "Neither."}[own]

    with speaking(reply) as server:
        asking = ["--task", "llava-bench", "--judge", "tiny", "--base-url", server.url, "--tries", 1]
        _, _, err = command(capsys, store, *asking, "--estimate")
        assert "4 questions to tiny, about" in err
        assert not server.asked
        rows = command(capsys, store, *asking)[1]
        assert server.asked[0]["temperature"] == 0.2
        assert len(server.asked) == 4
        assert command(capsys, store, *asking, "--force")[1] == rows
        assert len(server.asked) == 5  # the unclear one
    found = {(row["split"], row["metric"]): row["score"] for row in rows}
    assert found["all", "relative"] == pytest.approx(15.5 / 24)
    assert (found["conv", "relative"], found["detail", "relative"]) == (pytest.approx(9.5 / 18), 1)
    assert (found["all", "rating"], found["all", "reference_rating"]) == (pytest.approx(15.5 / 3), 8)
    assert (found["all", "unclear"], found["conv", "unclear"], found["detail", "unclear"]) == (0.25, 0, 0.5)
    page = reported(tmp_path, store)
    assert "Scores: LLaVA-Bench, judged by tiny" in page.headings
    assert "--task llava-bench --said generated_text --truth answer --judge tiny" in page.words


@pytest.mark.parametrize("arguments", [["--task", "llava-bench"], ["--task", "gqa", "--judge", "gpt-4o"]])
def test_a_judge_is_for_llava_bench(tmp_path, capsys, arguments):
    store = make_store(tmp_path / "s", ["cat"], label=["cat"])
    status, _, err = command(capsys, store, *arguments)
    assert (status, "--judge MODEL is for --task llava-bench" in err) == (2, True)


def test_gqa_and_answers(tmp_path, capsys):
    said, truth = ["A dog.", "red", "2", "in the box"], ["a dog", "blue", "two", "box"]
    store = make_store(tmp_path / "s", said, answer=truth)
    assert by_metric(command(capsys, store, "--task", "gqa")[1])["exact_match"]["score"] == 0.25
    (row,) = command(capsys, store, "--task", "answers")[1]
    assert (row["score"], row["truth"]) == (0.5, "answer")  # two is 2, a dog is a dog
    assert (row["low"], row["high"]) == pytest.approx(tuple(binomtest(2, 4).proportion_ci(method="wilson")))


def test_any_of_several_answers_also_as_json_text(tmp_path, capsys):
    truth = ['["cat", "kitten"]', '["dog"]', "bird"]
    store = make_store(tmp_path / "s", ["kitten", "cat", "bird"], answers=truth)
    (row,) = command(capsys, store, "--task", "answers")[1]
    assert (row["score"], row["n"], row["truth"]) == (pytest.approx(2 / 3), 3, "answers")


def test_conditions_stand_apart(tmp_path, capsys):
    store = make_store(
        tmp_path / "s", ["cat", "dog", "cat", "x"], label=["cat", "dog"] * 2, condition=["none"] * 2 + ["knockout"] * 2
    )
    _, rows, _ = command(capsys, store, "--task", "answers")
    assert {row["condition"]: row["score"] for row in rows} == {"none": 1, "knockout": 0.5}


def test_samples_without_answers_are_left_out_and_said(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["cat", "dog", None, "x"], label=["cat", None, "cat", "x"], failed=(3,))
    _, (row,), err = command(capsys, store, "--task", "answers")
    assert (row["score"], row["n"]) == (1, 1)
    assert "1 of 3 samples have no 'generated_text'; left out" in err
    assert "1 of 2 samples have no 'label'; left out" in err


def test_tokens_lose_the_space_that_tokenizers_write(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["▁cat", "Ġorġ", " bird"], column="next_token", label=["cat", "Ġorġ", "bird"])
    assert command(capsys, store, "--task", "gqa")[1][0]["score"] == 1


def test_accents_are_the_same_however_they_are_written(tmp_path, capsys):
    composed, apart = "caf\u00e9", "cafe\u0301"
    store = make_store(tmp_path / "s", [composed, apart, apart], label=[apart, composed, apart])
    for task in ("gqa", "answers"):
        assert command(capsys, store, "--task", task)[1][0]["score"] == 1


def test_columns_can_be_named_and_made_in_sql(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["it is a cat", "dog"], label=["cat", "dog"], other=["x", "dog"])
    sql = "select *, regexp_replace(generated_text, '^it is a ', '') as short from samples"
    (row,) = command(capsys, store, sql, "--task", "answers", "--said", "short", "--truth", "label")[1]
    assert (row["score"], row["said"]) == (1, "short")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "cider"], "no column captions for --task cider; name one with --truth"),
        (["--task", "answers", "--truth", "lable"], "no column 'lable', only .*did you mean 'label'"),
        (["--task", "answers", "--said", "sad"], "no column 'sad', only"),
        (["--task", "pope"], "none, all: truth 0 is 'cat'; POPE knows yes and no"),
        (["--task", "vqa", "--truth", "label"], "none, all: 1 annotators: VQA accuracy compares with the others"),
        (["--task", "gqa", "--truth", "several"], "none, all: a sample has 2 true answers, this task takes one"),
        (["--task", "answers", "--said", "several"], r"column 'several' holds List\(String\), not texts; name what is"),
        (["from samples where false", "--task", "answers"], "the samples say nothing"),
        (["from samples", "--task", "answers", "--said", "none"], "nothing to score: no sample has both 'none'"),
    ],
)
def test_wrong_calls_end_in_one_line(tmp_path, capsys, arguments, message):
    bare = pl.Series([None, None], dtype=pl.String)
    store = make_store(tmp_path / "s", ["cat", "dog"], label=["cat", "dog"], several=[["a", "b"]] * 2, none=bare)
    status, _, err = command(capsys, store, *arguments)
    assert status == 1
    assert re.search(message, err.splitlines()[-1])


def test_a_task_is_needed(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["cat"], label=["cat"])
    assert command(capsys, store)[0] == 2
    assert command(capsys, store, "--task", "captions")[0] == 2


def reported(tmp_path, *stores):
    output = tmp_path / "r.html"
    assert run(["report", *map(str, stores), "-o", str(output)]) == 0
    return Page(output.read_text())


def test_scores_of_several_models_stand_side_by_side_in_the_report(tmp_path, capsys):
    said = {"one": ["cat", "dog", "cow", "cow"], "two": ["cat", "cow", "cow", "cow"]}
    stores = [make_store(tmp_path / name, text, label=said["one"], split=list("aabb")) for name, text in said.items()]
    found = [command(capsys, store, "--task", "answers")[1] for store in stores]
    command(capsys, stores[0], "--task", "gqa")
    page = reported(tmp_path, *stores)
    assert [heading for heading in page.headings if heading.startswith("Scores")] == [
        "Scores: GQA",
        "Scores: answers",
    ]
    for name, rows in zip(said, found, strict=True):
        for row in rows:
            score = f"{row['score']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
            assert f"{name} {row['split']} {row['n']} {score}" in page.words
    assert "actstore score two --task answers --said generated_text --truth label" in page.words
    kept = pl.read_csv(tmp_path / "r_files" / "scores-2.csv")
    assert kept["store"].to_list() == ["one"] * 3 + ["two"] * 3
    assert kept["score"].to_list() == pytest.approx([row["score"] for rows in found for row in rows])
    assert {path.name for path in (tmp_path / "r_files").iterdir()} >= {"scores.png", "scores.svg", "scores-2.png"}


def test_other_samples_make_other_scores_and_those_of_before_are_not_shown(tmp_path, capsys):
    store = make_store(tmp_path / "s", ["yes", "no"], label=["yes", "no"], split=["a", "b"])
    some = "from samples where split = 'a'"
    command(capsys, store, some, "--task", "pope")
    page = reported(tmp_path, store)
    assert f"Scores: POPE, {some}" in page.headings
    assert "actstore score s \"from samples where split = 'a'\" --task pope" in page.words
    for result in actstore.open(store).results():
        result.path.unlink()
    assert not [heading for heading in reported(tmp_path, store).headings if heading.startswith("Scores")]


@pytest.mark.slow
def test_scores_of_every_task_are_drawn(tmp_path, capsys):
    captions = [["yes", "a cat"], ["no"], ["no", "dog"], ["yes"]]
    store = make_store(
        tmp_path / "s", ["yes", "no", "no", "yes"] * 2, image=["a", "a", "b", "b"] * 2, label=["yes", "no"] * 4,
        answers=[["yes"] * 10] * 8, captions=captions * 2, split=(["existence"] * 2 + ["code_reasoning"] * 2) * 2,
        condition=["none"] * 4 + ["blocked"] * 4,
    )  # fmt: skip
    for task in ("vqa", "cider", "pope", "gqa", "mme", "answers"):
        assert command(capsys, store, "--task", task)[0] == 0
    page = reported(tmp_path, store)
    names = ["VQA accuracy", "CIDEr", "POPE", "GQA", "MME", "answers"]
    assert [heading for heading in page.headings if heading.startswith("Scores")] == [f"Scores: {one}" for one in names]
    assert "s, blocked: perception" in (tmp_path / "r.html").read_text()
