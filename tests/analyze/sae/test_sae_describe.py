"""actstore describe: features chosen as measured, a judge asked once, its answers kept."""

import base64
import gzip
import json
import shutil
from io import BytesIO

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.stats import binomtest

import actstore
from actstore.commands.main import run
from actstore_analyze.sae.features import Activity, match_rate, top_features
from actstore_analyze.sae.matches import Matched
from actstore_analyze.sae.measure import rotated
from speaking import speaking

D = 6  # every dimension is a feature: the autoencoder passes on what is above 0.5

# sample -> its image tokens. Feature 0 is in all samples, feature 4 is dense in language, feature 5 has no description.
TOKENS = {
    "a": [[9, 1, 0, 0, 0, 0], [9, 3, 2, 0, 8, 7]],
    "b": [[9, 0, 0, 4, 0, 0]],
    "c": [[9, 0, 5, 0, 0, 0], [9, 6, 0, 0, 0, 0], [9, 1, 1, 1, 0, 0]],
    "d": [[9, 0, 0, 0, 8, 0]],
}
TOPS = {"a": [1, 2], "b": [3], "c": [1, 2, 3], "d": []}
WORDS = ["everything", "dogs", "grass", "balls", "the word the", "never described"]


@pytest.fixture
def folder(tmp_path):
    return make(tmp_path)


def make(tmp_path, points=(1,)):
    """A store of one layer (point 1) or several alike, its autoencoders, descriptions and images."""
    plan = pl.DataFrame({"batch": [0, 0, 1, 1], "sample_id": list(TOKENS), "image": [f"{name}.png" for name in TOKENS]})
    store = actstore.create(
        tmp_path / "store", plan=plan, layers=points, d_model=D, dtype="float32", run={"n_layers": 2}
    )
    for number, chosen in enumerate(["ab", "cd"]):
        rows = [{"sample_id": sample, "role": "image"} for sample in chosen for _ in TOKENS[sample]]
        x = np.concatenate([np.array(TOKENS[sample], np.float32) for sample in chosen])
        samples = pl.DataFrame({"sample_id": list(chosen), "status": "ok"})
        store.write(number, samples=samples, rows=pl.DataFrame(rows), residual={"image": np.stack([x] * len(points))})
    eye, none = np.eye(D, dtype=np.float32), np.zeros(D, np.float32)
    weights = {"W_enc": eye, "W_dec": eye, "b_enc": none, "b_dec": none, "threshold": none + 0.5}
    exported = [
        {
            "modelId": "tiny",
            "index": str(feature),
            "explanations": [{"description": f" {words} "}] if feature != 5 else [],
            "frac_nonzero": 0.006 if feature == 4 else 0.005,
        }
        for feature, words in enumerate(WORDS)
    ]
    for point in points:
        (tmp_path / "saes" / f"layer_{point - 1}").mkdir(parents=True)
        np.savez(tmp_path / "saes" / f"layer_{point - 1}" / "params.npz", **weights)
        (tmp_path / "texts" / f"layer_{point - 1}").mkdir(parents=True)
        for batch in (0, 1):
            path = tmp_path / "texts" / f"layer_{point - 1}" / f"batch-{batch}.json"
            path.write_text(json.dumps(exported[3 * batch :][:3]))
    for name in TOKENS:
        Image.new("RGB", (2, 3)).save(tmp_path / f"{name}.png")
        with (tmp_path / f"{name}.png").open("ab") as file:
            file.write(name.encode())
    return tmp_path


def command(capsys, folder, *arguments):
    """Exit status, the table, and what was said on standard error."""
    words = ["describe", folder / "store", "--saes", folder / "saes", "--descriptions", folder / "texts"]
    status = run([*map(str, [*words, "--most-images", "0.9", "--images", folder, *arguments])])
    out, err = capsys.readouterr()
    return status, pl.DataFrame([json.loads(line) for line in out.splitlines()], infer_schema_length=None), err


def judged(body):
    """YES where the descriptions say dogs and the image is of sample a or b."""
    text, image = body["messages"][0]["content"]
    sample = base64.b64decode(image["image_url"]["url"].partition(",")[2])[-1:].decode()
    return f"Match found: {'YES' if 'dogs' in text['text'] and sample in 'ab' else 'NO'}"


def as_they_are(table):
    """Without the controls."""
    return table.filter(pl.col("control") == "none")


def test_features_of_each_sample(folder, capsys):
    status, table, _ = command(capsys, folder)
    assert status == 0
    assert table["control"].unique(maintain_order=True).to_list() == ["none", "rotated", "gaussian"]
    table = as_they_are(table)
    assert dict(table.select("sample_id", "features").rows()) == TOPS
    assert table.row(2, named=True) == {
        "role": "image",
        "prompt_order": None,
        "condition": "none",
        "control": "none",
        "layer": 1,
        "sample_id": "c",
        "features": [1, 2, 3],
        "activations": [6, 5, 1],
        "descriptions": ["dogs", "grass", "balls"],
    }


@pytest.mark.slow
def test_several_jobs_give_what_one_gives(tmp_path, capsys):
    made = make(tmp_path, points=(1, 2))
    _, alone, _ = command(capsys, made)
    _, shared, err = command(capsys, made, "--jobs", 2, "--force")
    assert "saved as" in err
    assert as_they_are(alone)["layer"].to_list() == [1] * 4 + [2] * 4
    assert shared.equals(alone)


def exported(folder, source="0-tiny-res-6"):
    """The same descriptions as Neuronpedia exports them now: features and explanations apart, by the line, zipped."""
    here = folder / "v1" / "tiny" / source
    old = [json.loads(path.read_text()) for path in sorted((folder / "texts" / "layer_0").iterdir())]
    features = [one for batch in old for one in batch]
    lines = {
        "features": [{"modelId": "tiny", "layer": source, **one, "explanations": None} for one in features],
        "explanations": [
            {
                "modelId": "tiny",
                "layer": source,
                "index": one["index"],
                "description": text,
                "explanationModelName": "x",
            }
            for one in reversed(features)
            for text in (*(each["description"] for each in one["explanations"]), None, "another")[
                : 3 * (one["index"] != "5")
            ]
        ],
        "explanations-other": [{"index": one["index"], "description": "not this one"} for one in features[:5]],
        "activations": [{"index": "1", "tokens": ["a"]}],
    }
    for name, rows in lines.items():
        for batch in (0, 10, 2):
            own = rows[{0: slice(2), 2: slice(2, 4), 10: slice(4, None)}[batch]]
            (here / name).mkdir(parents=True, exist_ok=True)
            text = "".join(json.dumps(row) + "\n" for row in own)
            (here / name / f"batch-{batch}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (here / "source.jsonl").write_text('{"id": "0-tiny-res-6"}\n')
    return folder / "v1" / "tiny"


def test_neuronpedias_present_exports_say_what_its_older_ones_do(folder, capsys):
    _, before, _ = command(capsys, folder)
    model = exported(folder)
    for path in (model, f"{model}/{{layer}}-tiny-res-6"):
        status, table, err = command(capsys, folder, "--descriptions", path)
        assert status == 0
        if path == model:
            said = "layer 1: features described by several models, the first of them counts: {}"
            assert said.format("5 of explanations, 0 of explanations-other") in err
        assert table.equals(before)
    shutil.copytree(model / "0-tiny-res-6", model / "0-tiny-att-6")
    _, _, err = command(capsys, folder, "--descriptions", model)
    assert "are both of layer 0; name one file of descriptions" in err


@pytest.mark.parametrize(
    ("ruin", "message"),
    [
        (lambda at: shutil.rmtree(at / "features"), "(frac_nonzero) in its files; download its folder features"),
        (lambda at: [one.unlink() for one in at.glob("explanations*/*")], "; download its folder explanations too"),
        (lambda at: (at / "features" / "batch-2.jsonl.gz").write_bytes(b"{}"), "batch-2.jsonl.gz: not a JSON file"),
        (lambda at: cut(at / "features" / "batch-2.jsonl.gz"), "batch-2.jsonl.gz: not a JSON file"),
        (lambda at: (at / "explanations" / "batch-2.jsonl").write_text("[]\n"), "is not as Neuronpedia exports it"),
    ],
)  # fmt: skip
def test_exports_that_are_not_whole_are_named(folder, capsys, ruin, message):
    model = exported(folder)
    ruin(model / "0-tiny-res-6")
    status, _, err = command(capsys, folder, "--descriptions", model)
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def test_controls_are_the_vectors_rotated_and_gaussian_ones_of_the_same_moments(folder, capsys):
    _, table, _ = command(capsys, folder, "--most-images", "1.0", "--seed", "3")
    x = np.concatenate([np.array(TOKENS[name], np.float32) for name in TOKENS])
    owner = np.repeat(np.arange(4), [len(TOKENS[name]) for name in TOKENS])
    turned = rotated(x, 3)
    strongest = np.stack([np.where(turned > 0.5, turned, 0)[owner == i].max(0) for i in range(4)])
    allowed = np.array([True, True, True, True, False, False])
    assert table.filter(pl.col("control") == "rotated")["features"].to_list() == top_features(strongest, allowed)
    gaussian = table.filter(pl.col("control") == "gaussian")
    assert gaussian["sample_id"].to_list() == list(TOKENS)
    assert gaussian["features"].to_list() not in (list(TOPS.values()), top_features(strongest, allowed))


def test_an_untrained_adapter_is_one_more_control(folder, tmp_path, capsys):
    other = shutil.copytree(folder / "store", folder / "untrained")
    _, table, _ = command(capsys, folder, "--untrained", other)
    untrained = table.filter(pl.col("control") == "untrained").drop("control")
    assert untrained.equals(as_they_are(table).drop("control"))  # the same store, so the same features


def test_filters(folder, capsys):
    _, table, _ = command(capsys, folder, "--most-images", "1.0", "--most-language", "0.01", "--examples", "1")
    assert as_they_are(table)["features"].to_list() == [[0, 4, 1]]
    _, table, _ = command(capsys, folder, "--most-images", "0.49")
    assert as_they_are(table)["features"].to_list() == [[], [], [], []]  # 1, 2 and 3 are each in two of four samples
    _, table, _ = command(capsys, folder, "--most-images", "0.5")
    assert as_they_are(table)["features"].to_list() == list(TOPS.values())


def test_match_rate_beside_its_control(folder, capsys):
    with speaking(judged) as server:
        status, table, err = command(capsys, folder, "--judge", "tiny", "--base-url", server.url, "--controls")
        assert status == 0
        assert len(server.asked) == 13  # d has no described feature; of the controls some have
        assert "13 questions to tiny, about" in err
        assert table["control"].to_list() == ["none", "shuffled", "rotated", "gaussian"]
        plain, shuffled, *_ = table.rows(named=True)
        assert {name: plain[name] for name in ("control", "rate", "matched", "unclear", "undescribed", "n")} == {
            "control": "none",
            "rate": 0.25,
            "matched": 1,
            "unclear": 0,
            "undescribed": 1,
            "n": 4,
        }
        assert (shuffled["control"], shuffled["matched"]) == ("shuffled", 1)  # a's with b's image
        assert (plain["low"], plain["high"]) == pytest.approx(tuple(binomtest(1, 4).proportion_ci(method="wilson")))


def test_controls_are_judged_where_they_are_asked_for(folder, capsys):
    with speaking(judged) as server:
        asked = ("--judge", "tiny", "--base-url", server.url)
        _, table, _ = command(capsys, folder, *asked)
        assert len(server.asked) == 3
        assert table["control"].to_list() == ["none"]
        _, both, err = command(capsys, folder, *asked, "--controls")
        assert "3 are answered already" in err
    assert both.filter(control="none").equals(table)
    (older,) = [one for one in actstore.open(folder / "store").results() if one.parameters.get("controls")]
    kept = {name: value for name, value in older.parameters.items() if name not in ("controls", "text")}
    assert Matched.again({**kept, "no_control": False}).controls
    assert not Matched.again({**kept, "no_control": True}).controls
    assert Matched.again({**kept, "no_control": True}).text == "all"
    assert Matched.again(older.parameters).parameters == older.parameters


def test_a_second_run_asks_nothing(folder, capsys):
    with speaking(judged) as server:
        asked = ("--judge", "tiny", "--base-url", server.url, "--controls")
        _, first, _ = command(capsys, folder, *asked)
        _, second, err = command(capsys, folder, *asked, "--force")
        assert second.equals(first)
        assert "0 questions to tiny" in err
        assert "13 are answered already" in err
        _, _, err = command(capsys, folder, *asked)
        assert "recalled from" in err
        command(capsys, folder, *asked[:-1], "--examples", "2")
        assert len(server.asked) == 13
        command(capsys, folder, "--judge", "other", *asked[2:])
        assert len(server.asked) == 26
    kept = actstore.open(folder / "store")
    assert {result.measure for result in kept.results()} >= {"judge", "sae_features", "sae_match"}


def test_the_judge_sees_what_the_model_sees(folder, capsys):
    wide, exif = np.arange(6, dtype=np.uint16).reshape(2, 3) * 12850, Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(wide).save(folder / "a.png", "TIFF", exif=exif)
    with speaking(lambda _: "Match found: NO") as server:
        assert command(capsys, folder, "--judge", "tiny", "--base-url", server.url)[0] == 0
    urls = [body["messages"][0]["content"][1]["image_url"]["url"].partition(",") for body in server.asked]
    assert {kind for kind, *_ in urls} == {"data:image/png;base64"}
    pictures = [np.asarray(Image.open(BytesIO(base64.b64decode(url)))).tolist() for *_, url in urls]
    assert [[[150] * 3, [0] * 3], [[200] * 3, [50] * 3], [[250] * 3, [100] * 3]] in pictures


def test_estimate_asks_nothing(folder, capsys):
    with speaking(judged) as server:
        asked = ("--judge", "tiny", "--base-url", server.url, "--controls", "--estimate")
        status, table, err = command(capsys, folder, *asked, "--price", "2.5,10")
        assert (status, table.height, server.asked) == (0, 0, [])
    assert "13 questions to tiny" in err
    assert "dollars at 2.5 and 10 a million" in err


def test_answers_before_a_failure_are_kept(folder, capsys):
    with speaking(judged) as server:
        asked = ("--judge", "tiny", "--base-url", server.url, "--controls", "--at-once", "1", "--tries", "1")
        server.faults = [None, None, 500]
        status, _, err = command(capsys, folder, *asked)
        assert status == 1
        assert "refused: 500" in err.splitlines()[-1]
        assert "2 of 13 questions answered and kept" in err
        status, _, err = command(capsys, folder, *asked)
        assert status == 0
        assert "11 questions to tiny" in err


def test_unclear_replies_count_as_no_match(folder, capsys):
    with speaking(lambda _: "I cannot see it") as server:
        asked = ("--judge", "tiny", "--base-url", server.url, "--controls", "--tries", "1")
        _, table, _ = command(capsys, folder, *asked)
    assert table.select("matched", "unclear", "n").rows()[:2] == [(0, 3, 4), (0, 3, 4)]


def test_unclear_replies_are_asked_again_when_forced(folder, capsys):
    asked = ("--judge", "tiny", "--controls", "--tries", "1", "--base-url")
    with speaking(lambda _: "I cannot see it") as server:
        command(capsys, folder, *asked, server.url)
        n = len(server.asked)
    with speaking(judged) as server:
        _, table, err = command(capsys, folder, *asked, server.url, "--force")
        assert f"{n} questions to tiny" in err
        assert len(server.asked) == n
        assert table["unclear"].to_list() == [0] * table.height
        command(capsys, folder, *asked, server.url, "--force")
        assert len(server.asked) == n


def test_report(folder, capsys):
    with speaking(judged) as server:
        command(capsys, folder, "--judge", "tiny", "--base-url", server.url, "--controls")
    assert run(["report", str(folder / "store"), "-o", str(folder / "report.html")]) == 0
    page = (folder / "report.html").read_text()
    call = "actstore describe store --roles image --layers 1 --saes saes --hook post"  # in the folder of the store
    asked = "--descriptions texts --most-images 0.9 --judge tiny --images . --controls"
    title = "Match rate of feature descriptions, judged by tiny"
    for words in (title, "the same descriptions beside another sample&#39;s image", f"{call} {asked}"):
        assert words in page, words


def test_figure(folder, capsys):
    with speaking(judged) as server:
        drawn = folder / "match.svg"
        command(capsys, folder, "--judge", "tiny", "--base-url", server.url, "--controls", "--figure", drawn)
    assert "match rate" in drawn.read_text()
    assert "image, other image" in drawn.read_text()


def ruin(folder, what):
    texts = folder / "texts" / "layer_0" / "batch-0.json"
    if what == "json":
        texts.write_text("{")
    if what == "shape":
        texts.write_text('{"a": 1}')
    if what == "feature":
        texts.write_text('[{"explanations": [{"description": "x"}], "frac_nonzero": 0}]')
    if what == "beyond":
        texts.write_text('[{"index": "99", "explanations": [{"description": "x"}], "frac_nonzero": 0}]')
    if what == "bare":
        for file in texts.parent.iterdir():
            file.write_text("[]")
    if what == "image":
        (folder / "b.png").unlink()
    if what == "kind":
        (folder / "b.png").write_bytes(b"BM")
    if what == "layer":
        texts.parent.rename(texts.parent.with_name("layer_7"))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("json", "batch-0.json: not a JSON file"),
        ("shape", "batch-0.json: no list of features"),
        ("feature", "a feature is not as Neuronpedia exports it"),
        ("beyond", "describes feature 99, the autoencoder has 6"),
        ("bare", "no feature with a description and a density"),
        ("image", "b.png: No such file or directory; name the folder of the images: --images"),
        ("kind", "b.png: cannot identify image file; leave the sample out in SQL"),
        ("layer", "describes layer 8 (numbers read with --hook post), not 1"),
    ],
)
def test_wrong_files_end_in_one_line(folder, capsys, what, message):
    ruin(folder, what)
    status, _, err = command(capsys, folder, "--judge", "tiny", "--base-url", "http://127.0.0.1:9")
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("options", [["--price", "2"], ["--price", "a,b"], ["--estimate"], ["--figure", "x.png"]])
def test_wrong_usage(folder, capsys, options):
    assert command(capsys, folder, *options)[0] == 2


def test_samples_without_an_image(folder, capsys):
    plan = pl.DataFrame({"sample_id": ["t"], "image": [None]}, schema={"sample_id": pl.String, "image": pl.String})
    store = actstore.create(folder / "text", plan=plan, layers=[1], d_model=D, dtype="float32")
    rows = pl.DataFrame({"sample_id": ["t"], "role": ["last"]})
    x = np.full((1, 1, D), 3.0, np.float32)
    store.write(0, samples=pl.DataFrame({"sample_id": ["t"], "status": "ok"}), rows=rows, residual={"last": x})
    words = ["describe", folder / "text", "--saes", folder / "saes", "--descriptions", folder / "texts"]
    assert run([*map(str, words), "--judge", "x", "--base-url", "http://127.0.0.1:9"]) == 1
    assert (
        "sample t has no image, nor has it asked in another order (1 of 1 have none); leave them out"
        in capsys.readouterr().err
    )


def naive_top(tokens, allowed):
    """The first three distinct features, walking down all (token, feature) activations."""
    pairs = [(-value, feature) for token in tokens for feature, value in enumerate(token) if value > 0]
    found = []
    for _, feature in sorted(pairs):
        if allowed[feature] and feature not in found:
            found.append(feature)
    return found[:3]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 5), min_size=1, max_size=7), st.integers(1, 20))
def test_against_walking_down_all_activations(seed, sizes, n_features):
    rng = np.random.default_rng(seed)
    examples = np.repeat(np.arange(len(sizes)), sizes)
    tokens = np.maximum(rng.integers(-6, 7, (len(examples), n_features)), 0).astype(np.float32)
    allowed = rng.random(n_features) < 0.7
    found = Activity(len(sizes), n_features, kept=len(sizes))
    for chosen in np.array_split(rng.permutation(len(examples)), 3):  # parts, in any order
        if len(chosen):
            found.add(examples[chosen], tokens[chosen])
    expected = [naive_top(tokens[examples == example], allowed) for example in range(len(sizes))]
    assert top_features(found.largest, allowed) == expected
    active = [(tokens[examples == example] > 0).any(axis=0) for example in range(len(sizes))]
    np.testing.assert_allclose(found.frequency, np.mean(active, axis=0))


def test_no_examples_have_no_rate():
    found = match_rate(np.zeros(0, bool))
    assert np.isnan([found.rate, found.low, found.high]).all()
