"""actstore patch: replays from a store against the patches that ran online, and everything that it refuses."""

import json
import os
import shutil

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.patch.replayed import Replayed
from actstore_analyze.patch.study import SCHEMA
from actstore_analyze.report import causal
from actstore_extract.shipped import MODELS
from extracting import extract

PAIRS = [("seven", "three"), ("one", "zero")]
ASKED = ("--pairs", "seven:three,one:zero")
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def conditions(role):
    pairs = [list(pair) for pair in PAIRS]
    points = {"p": "residual", "a": "attention-input"}
    each = [f"{{name='{name}', patch='{role}', point='{point}', pairs={pairs}}}" for name, point in points.items()]
    return f"conditions=[{', '.join(each)}]"


def make(path, name, *changes, role="eoi", keep="roles=['all']", online=True):
    extract(
        path,
        *("samples.split=test", "samples.limit=80", "capture.part_samples=64", "capture.batch_size=16"),
        *("model.dtype=float32", f"capture.{keep}", f"capture.answers={WORDS}"),
        *([conditions(role)] if online else []),
        *changes,
        name=name,
    )
    return actstore.open(path)


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """Everything kept of each sample as it is, and patches of its class from the one before, online."""
    return make(tmp_path_factory.mktemp("patched") / "gated", "digits-gated")


def table(capsys, *arguments):
    """The rows of the table that a command prints, and what it says beside."""
    status = run([*map(str, arguments), "--format", "jsonl"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def refused(capsys, *arguments):
    assert run([*map(str, arguments)]) in (1, 2)
    return capsys.readouterr().err


NUMBERS = [name for name, kind in SCHEMA.items() if kind == pl.Float64]


def same(rows, others, within=1e-5):
    assert [row["layer"] for row in rows] == [row["layer"] for row in others]
    for name in NUMBERS:
        one, other = ([np.nan if row[name] is None else row[name] for row in each] for each in (rows, others))
        np.testing.assert_allclose(one, other, atol=within, err_msg=name)


@pytest.mark.parametrize("point", ["residual", "attention-input"])
def test_a_replay_is_what_ran_online(gated, point, capsys):
    ran, _ = table(capsys, "patch", gated.path)
    replayed, said = table(capsys, "patch", gated.path, *ASKED, "--point", point)
    same(replayed, [row for row in ran if row["point"] == point])
    assert {row["patch"] for row in replayed} == {"replayed"}
    assert "un-patched replays come to what they came to at extraction: probabilities of the likeliest" in said
    best = max(replayed, key=lambda row: row["similarity"])
    assert best["similarity"] > 0.6 > 10 * best["baseline"]  # the gate lets the class through,
    assert best["accuracy"] > 0.9 > best["accuracy_before"]
    assert replayed[0]["similarity"] < 0.05 or point == "attention-input"  # not before it was written there


def test_a_store_of_the_output_alone_has_every_patched_layer(gated, tmp_path, capsys):
    store = make(tmp_path / "output", "digits-gated", "capture.layers=[-1]", keep="roles=['last']")
    assert store.layers == (6,)
    ran, _ = table(capsys, "patch", store.path)
    assert [(row["point"], row["layer"]) for row in ran] == [
        *(("residual", layer) for layer in range(7)),
        *(("attention-input", layer) for layer in range(6)),
    ]
    same(ran, table(capsys, "patch", gated.path)[0])
    assert len(table(capsys, "patch", store.path, "--layers", "4")[0]) == 2
    assert "has no patch at layer 7, only at 0..6" in refused(capsys, "patch", store.path, "--layers", "7")


@pytest.mark.parametrize("method", ["suffix", "full"])
def test_every_method_gives_the_same(gated, method, capsys):
    options = (*ASKED, "--layers", "1,3..4", "--limit", "2")
    packed, _ = table(capsys, "patch", gated.path, *options)
    other, _ = table(capsys, "patch", gated.path, *options, "--method", method)
    same(packed, other)
    assert [row["n"] for row in packed] == [4] * 3
    low, _ = table(capsys, "patch", gated.path, *options, "--method", method, "--low-memory", "--force")
    same(low, other, within=1e-12)


def test_keys_and_values_from_the_store(gated, tmp_path, capsys):
    store = make(tmp_path / "kv", "digits-gated", "capture.kv=['prefix']", keep="roles=['suffix']", online=False)
    assert store.roles == ["suffix"]
    options = (*ASKED, "--limit", "2")
    replayed, _ = table(capsys, "patch", store.path, *options)
    expected, _ = table(capsys, "patch", gated.path, *options)
    same(replayed, expected)
    assert "full replay needs every position" in refused(capsys, "patch", store.path, *options, "--method", "full")


@pytest.mark.slow
def test_a_model_with_windows_soft_caps_and_no_end_of_image(tmp_path, capsys):
    store = make(tmp_path / "mapped", "digits-mapped", role="last-image")
    ran, _ = table(capsys, "patch", store.path)
    for point in ("residual", "attention-input"):
        replayed, _ = table(capsys, "patch", store.path, *ASKED, "--role", "last-image", "--point", point)
        same(replayed, [row for row in ran if row["point"] == point])
    assert "... is eoi: choose another --role" in refused(capsys, "patch", store.path, *ASKED)


def test_a_null_is_a_null(tmp_path, capsys):
    store = make(tmp_path / "fusion", "digits-fusion", "model.dtype=bfloat16", online=False)
    rows, said = table(capsys, "patch", store.path, *ASKED)
    assert "; 0.15 is allowed)" in said
    assert max(abs(row["similarity"] - row["baseline"]) for row in rows) < 0.02
    assert {row["accuracy"] for row in rows} == {rows[0]["accuracy_before"]}


# Sources


def of(store, label, limit=2):
    """Rows of the end of the image of some samples of a class."""
    return (
        "select r.* from rows r join samples s using (sample_id, condition) where r.condition = 'none' "
        f"and r.position = s.eoi and r.label = '{label}' order by r.row_id limit {limit}"
    )


def test_every_source_into_every_receiver(gated, capsys):
    receivers = of(gated, "three", 3)
    rows, _ = table(capsys, "patch", gated.path, receivers, "--source", of(gated, "seven"), "--layers", "4")
    assert rows[0]["n"] == 6
    apart = [
        table(capsys, "patch", gated.path, receivers, "--source", f"from ({of(gated, 'seven')}) offset {i} limit 1",
              "--layers", "4")[0][0]
        for i in (0, 1)
    ]  # fmt: skip
    assert rows[0]["similarity"] == pytest.approx(np.mean([row["similarity"] for row in apart]))
    assert rows[0]["accuracy"] == pytest.approx(np.mean([row["accuracy"] for row in apart]))


def test_means_of_classes(gated, capsys):
    rows, _ = table(capsys, "patch", gated.path, *ASKED, "--mean")
    assert {row["similarity"] for row in rows} == {None}  # a mean says nothing itself
    assert max(row["accuracy"] for row in rows) > 0.9 > rows[0]["accuracy"]
    (sentence,) = causal.patches("gated", pl.DataFrame(rows, schema=SCHEMA))
    assert "the source is no sample, which would say something itself; the source's word is preferred in" in sentence
    one = ("--source", of(gated, "seven", 1), "--layers", "3")
    alone, _ = table(capsys, "patch", gated.path, of(gated, "three"), *one)
    mean, _ = table(capsys, "patch", gated.path, of(gated, "three"), *one, "--mean")
    assert alone[0]["accuracy"] == mean[0]["accuracy"]


def vectors(store, query):
    rows = store.sql(query)
    return np.stack([store.residual(rows, layer).mean(0, dtype=np.float64) for layer in store.layers])


def test_a_difference_of_means_is_the_vector_of_a_file(gated, tmp_path, capsys):
    receivers, layers = of(gated, "three", 4), ("--layers", "3,4")
    sides = ("--source", of(gated, "seven", 9), "--minus", of(gated, "three", 9))
    by_sql, _ = table(capsys, "patch", gated.path, receivers, *sides, *layers)
    assert max(row["accuracy"] for row in by_sql) > 0.7 > by_sql[0]["accuracy_before"]
    x = (vectors(gated, of(gated, "seven", 9)) - vectors(gated, of(gated, "three", 9))).astype(np.float32)
    pl.DataFrame({f"layer_{i}": [x[i].tolist()] for i in (3, 4)}).write_parquet(tmp_path / "steer.parquet")
    np.save(tmp_path / "one.npy", x[4])
    file = ("--vector", tmp_path / "steer.parquet", "--to", "seven", "--add", "1")
    rows, said = table(capsys, "patch", gated.path, receivers, *file, *layers)
    same(rows, by_sql)
    assert f"put in: the vector of {tmp_path / 'steer.parquet'}, for each layer" in said
    file = ("--vector", tmp_path / "one.npy", "--add", "1", "--layers", "4")
    alone, said = table(capsys, "patch", gated.path, receivers, *file, "--figure", tmp_path / "f.svg")
    assert (alone[0]["n"], alone[0]["accuracy"]) == (4, None)
    assert (
        "no accuracy: not everything that is put in, and not every receiver, has a class; --to CLASS says which" in said
    )
    assert "n = 4 samples, patched at eoi" in (tmp_path / "f.svg").read_text()
    message = refused(capsys, "patch", gated.path, receivers, "--vector", tmp_path / "steer.parquet", "--add", "1")
    assert "no vector for layer 0, only for 3, 4" in message


def test_a_file_of_several_vectors_is_their_mean(gated, tmp_path, capsys):
    x = gated.residual(gated.sql(of(gated, "seven", len(gated.layers))), 4)  # as many as the store has layers
    np.save(tmp_path / "seven.npy", x)
    pl.DataFrame({"label": "seven", "layer_4": x.tolist()}).write_parquet(tmp_path / "layer.parquet")
    pl.DataFrame({"vector": x.tolist()}).write_parquet(tmp_path / "vectors.parquet")
    np.save(tmp_path / "mean.npy", x.mean(0, dtype=np.float64).astype(np.float32))
    asked = ("patch", gated.path, of(gated, "three", 4), "--to", "seven", "--layers", "4", "--vector")
    expected, said = table(capsys, *asked, tmp_path / "mean.npy")
    assert "put in: the vector of " in said
    assert expected[0]["accuracy"] > expected[0]["accuracy_before"]
    for name in ("seven.npy", "layer.parquet", "vectors.parquet"):
        rows, said = table(capsys, *asked, tmp_path / name)
        same(rows, expected)
        assert f"put in: the mean of 7 vectors of {tmp_path / name}" in said


@pytest.mark.parametrize(
    ("name", "save", "message"),
    [
        ("v.npy", lambda path: np.save(path, np.ones(7, np.float32)), "a vector of 7 numbers; the residual stream"),
        ("v.npy", lambda path: np.save(path, np.full(64, np.nan, np.float32)), "holds inf or NaN"),
        ("v.npy", lambda path: np.save(path, np.ones((2, 2, 2))), "shape (2, 2, 2); floats (d,) or (n, d) are wanted"),
        ("v.npy", lambda path: path.write_bytes(b"nonsense"), "v.npy: "),
        ("v.pt", lambda path: path.write_bytes(b""), "read from .npy or .parquet"),
        ("v.parquet", lambda path: pl.DataFrame({"a": [1]}).write_parquet(path), "rows with one are wanted, or"),
        (
            "v.parquet",
            lambda path: pl.DataFrame({"a": [[1.0], [1.0, 2.0]]}).write_parquet(path),
            "not of one width",
        ),
        ("none.npy", lambda _: None, "none.npy: No such file"),
        ("v.npy", os.mkfifo, "v.npy: it is a pipe that nobody writes to"),
        ("v.parquet", os.mkfifo, "v.parquet: it is a pipe that nobody writes to"),
    ],
)
def test_a_file_that_holds_no_such_vector(gated, tmp_path, capsys, name, save, message):
    save(tmp_path / name)
    assert message in refused(capsys, "patch", gated.path, "--vector", tmp_path / name)


# What is refused, and what is said


@pytest.mark.slow
def test_a_store_without_what_a_replay_needs_says_which_roles(tmp_path, capsys):
    store = make(tmp_path / "little", "digits-gated", keep="roles=['eoi', 'last']", online=False)
    message = refused(capsys, "patch", store.path, *ASKED)
    assert "keeps the residual stream of eoi, last at all of 7 layers; replays of patches at eoi need" in message
    assert 'roles = ["all"], or roles = ["suffix"] and kv = ["prefix"]' in message
    rows, _ = table(capsys, "patch", store.path, *ASKED, "--estimate")
    answers = {row["what"]: row["answer"] for row in rows}
    assert answers["stored"] == "the residual stream of eoi, last at all of 7 layers"
    assert answers["packed"] == answers["suffix"] != answers["full"]
    assert "extract again" in answers["full"]
    assert answers["to be replayed"].startswith("no: ")
    assert run(["patch", str(store.path), *ASKED, "--estimate", "--format", "table"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert 'or roles = ["suffix"] and kv = ["prefix"], which is smaller where heads share keys' in shown
    assert "…" not in shown
    other = make(tmp_path / "layers", "digits-gated", "capture.layers=[3, 5]", online=False)
    rows, _ = table(capsys, "patch", other.path, *ASKED, "--limit", "1")  # full replays go on from any layer
    assert [row["layer"] for row in rows] == [3, 5]
    assert "at 2 of 7 layers" in refused(capsys, "patch", other.path, *ASKED, "--method", "packed")


def test_an_estimate(gated, capsys):
    rows, _ = table(capsys, "patch", gated.path, *ASKED, "--limit", "3", "--estimate")
    answers = {row["what"]: row["answer"] for row in rows}
    assert answers["to be replayed"] == "42 patches in 6 samples, and 12 as they were; packed"
    assert answers["packed"] == answers["full"] == "can be replayed"
    assert "measured on one receiver" in answers["time"]
    assert float(answers["weights in memory"].split()[0]) == pytest.approx(1.2, abs=0.3)
    low, _ = table(capsys, "patch", gated.path, *ASKED, "--limit", "3", "--estimate", "--low-memory")
    assert {row["what"]: row["answer"] for row in low}["weights in memory"].endswith("one block at a time")


def test_other_weights_are_refused_unless_forced(gated, tmp_path, capsys):
    other = shutil.copytree(MODELS["digits-fusion"], tmp_path / "other")
    asked = ("patch", gated.path, *ASKED, "--limit", "1", "--model", other)
    message = refused(capsys, *asked)
    assert f"the weights at {other} are not those that made the store: sha256 " in message
    assert "--force" in message
    message = refused(capsys, *asked, "--force")
    assert (
        "replayed as it was, it comes to something else than at extraction: probabilities of the likeliest" in message
    )
    assert "are these the weights?" in message
    _, said = table(capsys, *asked, "--force", "--tolerance", "100")
    assert "replayed all the same, as asked" in said
    same_ones = shutil.copytree(MODELS["digits-gated"], tmp_path / "same")
    table(capsys, "patch", gated.path, *ASKED, "--limit", "1", "--model", same_ones)
    table(capsys, "patch", gated.path, *ASKED, "--limit", "1", "--model", "digits-gated", "--force")


def test_a_replay_that_is_too_far_off_says_what_differs(gated, capsys):
    asked = ("patch", gated.path, *ASKED, "--limit", "2", "--dtype", "bfloat16")
    message = refused(capsys, *asked, "--tolerance", "1e-6")
    assert "1e-06 is allowed. What differs: number type of the model: float32 then, bfloat16 now." in message
    _, said = table(capsys, *asked)
    assert "; 0.15 is allowed)" in said


def test_words_of_classes(gated, capsys):
    asked = ("patch", gated.path, *ASKED, "--limit", "1", "--layers", "4")
    _, said = table(capsys, *asked, "--word", "seven=seven eight")
    assert "the word 'seven eight' is 2 tokens; the first stands for seven" in said
    rows, said = table(capsys, *asked, "--word", "seven=three")
    assert "no accuracy: the words of seven ('three') and three ('three') begin with the same token" in said
    assert rows[0]["accuracy"] is None
    assert rows[0]["similarity"] > 0
    assert "--word seven=zebra: 'zebra' is no word of the model's" in refused(capsys, *asked, "--word", "seven=zebra")


def test_a_class_is_not_compared_with_itself(gated, capsys):
    options = ("--limit", "3", "--layers", "4")
    alone, said = table(capsys, "patch", gated.path, "--pairs", "seven:seven", *options)
    assert (alone[0]["accuracy"], alone[0]["n"]) == (None, 3)
    assert "left out of the accuracy: 3 of 3 pairs, whose source and receiver are of one class or word" in said
    other, said = table(capsys, "patch", gated.path, "--pairs", "seven:three", *options)
    assert "left out" not in said
    both, said = table(capsys, "patch", gated.path, "--pairs", "seven:seven,seven:three", *options)
    assert "3 of 6 pairs" in said
    for name in ("accuracy", "low", "accuracy_before", "sign_flips"):
        assert both[0][name] == other[0][name]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pairs", "seven"), "write SOURCE:RECEIVER"),
        (("--pairs", "seven:tree"), "no sample of the query has label 'tree'; did you mean 'three'"),
        (
            ("--pairs", "7:three"),
            "no sample of the query has label '7'; there are eight, five, four, nine, one, seven, ",
        ),
        (("--pairs", "seven:three", "--vector", "v.npy"), "No such file"),
        (("--pairs", "seven:three", "--source", "from rows"), "One of --pairs, --source and --vector"),
        (("--pairs", "seven:three", "--minus", "from rows"), "--minus is taken from the mean of --source"),
        (("--pairs", "seven:three", "--to", "seven"), "--to is the class that --vector"),
        (("--pairs", "seven:three", "--mean", "--point", "attention-input"), "take --pairs or --source, without means"),
        (("--pairs", "seven:three", "--point", "attention-input", "--layers", "6"), "no attention reads layer 6"),
        (("--pairs", "seven:three", "--role", "eio"), "no role is called 'eio'"),
        (("--pairs", "seven:three", "--role", "eol"), "is eol: choose another --role"),
        (
            (
                "--source",
                "from rows where condition = 'p-l2'",
            ),
            "replays are of the model as it is",
        ),
        (
            (
                "--source",
                "from rows where false",
            ),
            "no rows to take vectors from",
        ),
        (("--pairs", "seven:three", "--word", "sevn=eight"), "no sample has label 'sevn'; did you mean 'seven'"),
        (("--pairs", "seven:three", "--word", "seven"), "--word seven: write CLASS=WORD"),
        (("--pairs", "seven:three", "--by", "labl"), "no column 'labl' of the samples to take classes from; did you"),
        (("--source", "from rows limit 1", "--by", "labl"), "no column 'labl' of the samples"),
        (("--source", "from samples", "--limit", "1"), "the query gives no row_id, only "),
        (
            ("--source", "from samples", "--minus", "from rows", "--to", "sevn"),
            "has label 'sevn'; did you mean 'seven'",
        ),
        (
            ("--source", "from rows where label = 'seven'", "--limit", "1"),
            "add position = eoi to the query of --source",
        ),
        (("--role", "eoi", "--limit", "3"), "is of replays: say what is put in"),
        (("--estimate",), "is of replays: say what is put in"),
    ],
)
def test_a_mistake_is_named(gated, capsys, options, message):
    assert message in refused(capsys, "patch", gated.path, *options)


def test_a_store_that_names_no_model(tmp_path, capsys):
    from making import store

    made = store(tmp_path / "s", 1)
    assert "names no model" in refused(capsys, "patch", made.path, "--source", "from rows where role = 'eoi'")


def test_a_saved_answer_is_recalled_and_drawn(gated, tmp_path, capsys):
    asked = ("patch", gated.path, *ASKED, "--limit", "2", "--layers", "0..4")
    first, _ = table(capsys, *asked)
    again, said = table(capsys, *asked, "--low-memory", "--figure", tmp_path / "f.svg")
    assert first == again
    assert "recalled from" in said
    drawn = (tmp_path / "f.svg").read_text()
    assert "similarity to the source" in drawn
    assert "n = 4 pairs, patched at eoi" in drawn
    assert "vectors of other samples, seven:three, one:zero, at most 2 of" in drawn
    assert "layers 0..4" in drawn
    (result,) = [one for one in gated.results() if str(one.path) in said]
    command = Replayed.again(result.parameters).command(gated.path)
    assert command.endswith(f"patch {gated.path} --layers 0,1,2,3,4 --role eoi --pairs seven:three,one:zero --limit 2")
    title = Replayed.again(result.parameters).title
    assert title.endswith("of eoi: vectors of other samples, seven:three, one:zero, at most 2 of each pair")


def test_of_a_store_without_patches_that_can_be_replayed(tmp_path, capsys):
    store = make(tmp_path / "plain", "digits-gated", "samples.limit=2", online=False)
    assert "or replay patches from what it keeps, with --pairs" in refused(capsys, "patch", store.path)
    kept = make(
        tmp_path / "two", "digits-gated", "samples.limit=10", keep="roles=['suffix', 'eoi', 'last']", online=False
    )
    query = "from rows where role in ('eoi', 'last')"
    message = refused(capsys, "patch", kept.path, "--source", query)
    assert "at eoi, last; add role = 'eoi' to the query of --source" in message
