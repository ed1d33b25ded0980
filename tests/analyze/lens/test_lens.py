"""What a lens reads in vectors, and actstore lens: from recipe to table."""

import json

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, rel_entr, softmax

import actstore
import making
from actstore.commands.main import run
from actstore.format.lens import Lens, Optics
from actstore_analyze.lens import measure as lens_measure
from actstore_analyze.lens.measure import read
from actstore_analyze.study.intervals import wilson
from extracting import extract
from lenses import TOKENS, D, made


def expected(lens, x):
    """Logits (..., tokens) in float64."""
    x = x - x.mean(axis=-1, keepdims=True) if lens.optics.norm == "layernorm" else x
    h = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + lens.optics.eps) * lens.weight + lens.shift
    said = np.isfinite(lens.bias)
    logits = (h @ lens.unembedding.T.astype(float) + np.where(said, lens.bias, 0)) * lens.optics.scale
    if lens.optics.softcap is not None:
        logits = np.tanh(logits / lens.optics.softcap) * lens.optics.softcap
    return np.where(said, logits, -np.inf)


@pytest.mark.parametrize("block", [1, 7, 10_000])
@pytest.mark.parametrize(("norm", "softcap"), [("rmsnorm", None), ("layernorm", 20.0)])
def test_read_is_the_softmax_of_scipy(monkeypatch, norm, softcap, block):
    lens, rng = made(norm, softcap), np.random.default_rng(2)
    x, targets = 3 * rng.standard_normal((4, 20, D)), rng.integers(4, TOKENS - 1, 20)
    targets[::3] = -1
    monkeypatch.setattr(lens_measure, "_LOGITS", block * 80)
    found, p = read(lens, x, targets, k=5, last=-1), softmax(expected(lens, x), axis=-1)
    assert_allclose(found.entropy, entr(p).sum(-1), atol=1e-4)
    assert_allclose(found.divergence, rel_entr(p[-1], p).sum(-1), atol=1e-4)
    order = np.argsort(-p, axis=-1)
    assert_array_equal(found.tokens, order[..., :5])
    assert_allclose(found.probabilities, np.take_along_axis(p, order[..., :5], -1), atol=1e-5)
    asked = targets >= 0
    of_target = p[:, np.arange(20)[asked], targets[asked]]
    assert_allclose(found.probability[:, asked], of_target, atol=1e-5)
    assert_array_equal(found.rank[:, asked], 1 + (p[:, asked] > of_target[..., None]).sum(-1))
    assert np.isnan(found.probability[:, ~asked]).all()
    assert not found.rank[:, ~asked].any()


def test_read_of_plain_vectors_and_what_does_not_matter():
    lens, x = made(), np.random.default_rng(3).standard_normal((6, D))
    one, layered = read(lens, x, [5] * 6), read(lens, np.stack([x, x]), [5] * 6, last=1)
    assert_allclose(one.probability, layered.probability[0], rtol=1e-5)
    assert np.isnan(one.divergence).all()
    assert_allclose(layered.divergence, 0, atol=1e-6)
    unbent = Lens(Optics("rmsnorm", 0.0, TOKENS), lens.weight, lens.shift, lens.bias, lens.unembedding)
    assert_allclose(read(unbent, 1000 * x).entropy, read(unbent, x).entropy, rtol=1e-4)  # a norm forgets the scale


def test_a_token_that_is_never_said_has_no_probability():
    found = read(made(), np.ones((2, D)), [3, 3], k=TOKENS)
    assert found.probability.tolist() == [0, 0]
    assert found.rank.tolist() == [TOKENS - 1] * 2  # 59 are likelier
    assert_allclose(found.probabilities.sum(axis=-1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("x", "targets", "message"),
    [
        (np.ones((2, D + 1)), None, "this lens reads vectors of 16 numbers"),
        (np.full((2, D), np.nan), None, "row 0 holds NaN"),
        (np.ones((2, D)), [1], "one for each of 2 vectors"),
        (np.ones((2, D)), [1, TOKENS], "from 0 to 60, or -1"),
    ],
)
def test_what_cannot_be_read(x, targets, message):
    with pytest.raises(actstore.ActstoreError, match=message):
        read(made(), x, targets)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("lens") / "s"
    extract(path, "capture.lens=true", 'capture.roles=["eoi", "image", "last"]', "model.dtype=float32")
    return actstore.open(path)


def test_the_stored_lens_at_last_is_the_stored_next_token(store):
    """The oracle: two ways to the same numbers, one through the model, one through the store."""
    rows = store.sql(
        "select row_id, top_tokens, top_probabilities from rows join samples using (sample_id, condition) "
        "where role = 'last' order by row_id"
    )
    found = read(store.lens, store.residual(rows, store.layers[-1]))
    words = dict(store.vocabulary.iter_rows())
    assert [[words[i] for i in row] for row in found.tokens.tolist()] == rows["top_tokens"].to_list()
    assert_allclose(found.probabilities, np.array(rows["top_probabilities"].to_list()), rtol=1e-3)


def table(capsys, *arguments):
    status = run(["lens", *map(str, arguments), "--format", "json"])
    out, err = capsys.readouterr()
    assert status == 0, err
    return pl.DataFrame(json.loads(out)), err


def test_the_table(store, capsys):
    found, _ = table(capsys, store.path, "--roles", "eoi,last")
    assert found["role"].to_list() == ["eoi"] * 7 + ["last"] * 7
    final = found.row(by_predicate=(pl.col("role") == "last") & (pl.col("layer") == 6), named=True)
    said = store.sql("select avg((next_token = label)::int) as right, count(*) as n from samples").row(0, named=True)
    assert (final["right"], final["n"], final["labelled"], final["divergence"]) == (said["right"], 24, 24, 0)
    assert (found["divergence"].to_numpy()[:6] > 0).all()
    counts = store.sql("select next_token, count(*) as n from samples group by all order by n desc, next_token limit 1")
    assert final["top_tokens"].startswith(f"{counts['next_token'][0]} {round(counts['n'][0] / 24, 3)}")
    probability = found.filter(role="last")["probability"].to_list()
    assert probability[-1] > 0.8 > 5 * probability[0]


def test_the_numbers_of_one_layer_by_hand(store, capsys):
    found, _ = table(capsys, store.path, "--roles", "last", "--layers", "4")
    rows = store.sql("from rows where role = 'last' order by row_id")
    p = softmax(expected(store.lens, store.residual(rows, 4).astype(float)), axis=-1)
    ids = {token: i for i, token in store.vocabulary.iter_rows()}
    right = p[np.arange(24), [ids[label] for label in rows["label"]]]
    ranks = 1 + (p > right[:, None]).sum(axis=-1)
    one = found.row(0, named=True)
    assert one["probability"] == pytest.approx(right.mean(), rel=1e-4)
    assert one["se"] == pytest.approx(right.std(ddof=1) / np.sqrt(24), rel=1e-3)
    entropies = entr(p).sum(-1)
    drawn = np.random.default_rng(0).integers(0, 24, (1000, 24))
    ends = [np.quantile(np.sort(of)[drawn].mean(axis=1), [0.025, 0.975]) for of in (right, entropies)]
    assert [one["low"], one["high"]] == pytest.approx(ends[0], rel=1e-3)
    assert [one["entropy_low"], one["entropy_high"]] == pytest.approx(ends[1], rel=1e-3)
    assert (one["rank"], one["rank_q75"]) == (np.median(ranks), np.quantile(ranks, 0.75))
    assert one["entropy"] == pytest.approx(entropies.mean(), rel=1e-4)
    assert one["right"] == (ranks == 1).mean()
    assert [one["right_low"], one["right_high"]] == pytest.approx(wilson(int((ranks == 1).sum()), 24))


def test_tokens_are_shown_as_they_are_read(store, capsys, monkeypatch):
    """A byte-level vocabulary marks spaces, and spells other bytes in letters of its own."""
    plain, _ = table(capsys, store.path, "--layers", "4")
    own = store.vocabulary.with_columns(pl.format("Ġ{}", "token").alias("token"))
    monkeypatch.setattr(type(store), "vocabulary", own)
    shown, _ = table(capsys, store.path, "--layers", "4", "--force")
    assert shown["top_tokens"].to_list() == plain["top_tokens"].to_list()


def test_positions_are_averaged_within_samples_and_jobs_change_nothing(store, capsys):
    whole, _ = table(capsys, store.path, "--roles", "image,last", "--layers", "2..3")
    shared, _ = table(capsys, store.path, "--roles", "image,last", "--layers", "2..3", "--jobs", 2, "--force")
    assert whole.equals(shared)
    assert whole["n"].to_list() == [24] * 4
    rows = store.sql("from rows where role = 'image' order by sample_id, k")
    ids = {token: i for i, token in store.vocabulary.iter_rows()}
    right = read(store.lens, store.residual(rows, 2), [ids[label] for label in rows["label"]])
    of_samples = right.probability.reshape(24, 16).mean(axis=1)
    assert whole["probability"][0] == pytest.approx(of_samples.mean(), rel=1e-5)
    assert whole["se"][0] == pytest.approx(of_samples.std(ddof=1) / np.sqrt(24), rel=1e-4)
    assert whole["rank"][0] == np.median(np.median(right.rank.reshape(24, 16), axis=1))
    drawn, err = table(capsys, store.path, "--roles", "image", "--layers", 2, "--positions", 3)
    assert "saved as" in err
    again, err = table(capsys, store.path, "--roles", "image", "--layers", 2, "--positions", 3)
    assert "recalled from" in err
    assert drawn.equals(again)


def test_shares_of_samples_add_up(store, capsys, monkeypatch):
    from actstore_analyze.lens import study as lenses

    whole, _ = table(capsys, store.path, "--roles", "image,eoi", "--layers", "1..3")
    monkeypatch.setattr(lenses, "SAMPLES", 5)
    monkeypatch.setattr(lenses, "VECTORS", 40)
    pieces, _ = table(capsys, store.path, "--roles", "image,eoi", "--layers", "1..3", "--force")
    numbers = pl.selectors.numeric()
    assert_allclose(pieces.select(numbers).to_numpy(), whole.select(numbers).to_numpy(), rtol=1e-5, atol=1e-6)
    assert pieces["top_tokens"].equals(whole["top_tokens"])


def test_labels_that_are_no_tokens_are_said(store, capsys):
    found, err = table(capsys, store.path, "select *, label || ' !' as other from rows", "--label", "other",
                       "--roles", "last", "--layers", 6)  # fmt: skip
    assert "labels are no single token, the first" in err
    assert found["probability"].to_list() == [None]
    assert found["labelled"].to_list() == [0]
    assert found["entropy"].item() > 0


def test_answers_of_the_recipe_say_the_token(tmp_path, capsys):
    extract(tmp_path / "s", "capture.lens=true", 'capture.roles=["last"]', "samples.limit=6", "capture.layers=[2, 4]",
            'capture.answers={ zero = "one", one = "two" }')  # fmt: skip
    made = actstore.open(tmp_path / "s")
    assert made.run["answer_tokens"] == {
        "zero": made.vocabulary.filter(token="one")["token_id"].item(),
        "one": made.vocabulary.filter(token="two")["token_id"].item(),
    }
    found, err = table(capsys, tmp_path / "s", "from rows where label = 'zero'", "--layers", 4)
    assert "the last layer, 6, is not stored" in err
    assert found["divergence"].to_list() == [None]
    rows = made.sql("from rows where label = 'zero'")
    by_hand = read(made.lens, made.residual(rows, 4), [made.run["answer_tokens"]["zero"]] * rows.height)
    assert found["probability"].item() == pytest.approx(by_hand.probability.mean(), rel=1e-5)


def test_figures(store, tmp_path, capsys):
    table(capsys, store.path, "--roles", "eoi,last", "--figure", tmp_path / "f.svg")
    drawn = (tmp_path / "f.svg").read_text()
    assert "probability of the label's token" in drawn
    assert "divergence of the last layer (nats)" in drawn
    unlabelled = ("select *, 'none of these' as other from rows", "--label", "other")
    table(capsys, store.path, *unlabelled, "--roles", "last", "--figure", tmp_path / "e.svg")
    assert "entropy (nats)" in (tmp_path / "e.svg").read_text()


def test_a_store_without_a_lens(tmp_path, capsys):
    made = making.store(tmp_path / "s", 1)
    assert run(["lens", str(made.path)]) == 1
    assert "no lens is stored; extract it with: actstore extract RECIPE STORE --set capture.lens=true" in (
        capsys.readouterr().err
    )


def test_less_those_of_another_store_it_is_the_mean_of_samples_changes(store, tmp_path, capsys):
    """Of the same model in bfloat16: paired, a difference is known far better than either value."""
    there = tmp_path / "there"
    extract(there, "capture.lens=true", 'capture.roles=["eoi", "image", "last"]', "model.dtype=bfloat16")
    capsys.readouterr()
    asked = ("--roles", "last", "--layers", "4,6")
    own, other = table(capsys, store.path, *asked)[0], table(capsys, there, *asked)[0]
    found, _ = table(capsys, store.path, *asked, "--minus-store", there)
    for metric in ("probability", "right", "entropy", "divergence"):
        rows = found.filter(metric=metric)
        assert rows["difference"].to_list() == pytest.approx((own[metric] - other[metric]).to_list(), abs=1e-6)
        assert (rows["difference_low"] <= rows["difference"]).all()
        assert (rows["difference"] <= rows["difference_high"]).all()
    change = found.row(by_predicate=(pl.col("metric") == "probability") & (pl.col("layer") == 4), named=True)
    assert change["difference_high"] - change["difference_low"] < (own["high"] - own["low"])[0] / 3
    final = found.row(by_predicate=(pl.col("metric") == "divergence") & (pl.col("layer") == 6), named=True)
    assert (final["difference_low"], final["difference"], final["difference_high"]) == (0, 0, 0)
