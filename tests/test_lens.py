"""The lens of a store: kept as plain numbers, checked as everything else, and right about what the model says next."""

import json

import numpy as np
import polars as pl
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import entr, rel_entr, softmax
from transformers import CohereConfig, CohereForCausalLM, GPT2Config, GPT2LMHeadModel, GraniteConfig, GraniteForCausalLM

import actstore
import making
import tiny
from actstore import CorruptError
from actstore.commands.main import run
from actstore.format import commits, records
from actstore.format.lens import FILES, Lens, Optics
from actstore.maintain import verify
from actstore_analyze.lens import measure as lens_measure
from actstore_analyze.lens.measure import read
from actstore_extract.families import Model
from actstore_extract.forward import capture as capture_module
from actstore_extract.forward.capture import Selection
from actstore_extract.run.lens import LensError, lens_of
from extracting import extract

D, TOKENS = 16, 61


def made(norm="rmsnorm", softcap=None, d=D, dtype=np.float32):
    """A random lens in which two tokens are never said."""
    rng = np.random.default_rng(0)
    bias = rng.standard_normal(TOKENS).astype(np.float32)
    bias[[3, 60]] = -np.inf
    optics = Optics(norm, 0.1, TOKENS, scale=1.5, softcap=softcap)
    weight, shift = rng.standard_normal((2, d)).astype(np.float32)
    return Lens(optics, weight, shift, bias, rng.standard_normal((TOKENS, d)).astype(dtype))


def by_the_page(folder, x):
    """Logits as FORMAT.md says them, from the files alone, in float64."""
    header = json.loads((folder / "actstore.json").read_bytes())
    lens, d, dtype = header["lens"], header["capture"]["d_model"], header["capture"]["dtype"]
    weight, shift = np.fromfile(folder / "lens/norm.bin", "<f4").reshape(2, d).astype(float)
    bias = np.fromfile(folder / "lens/bias.bin", "<f4").astype(float)
    kind = {"bfloat16": "<u2", "float16": "<f2", "float32": "<f4"}[dtype]
    unembedding = np.fromfile(folder / "lens/unembedding.bin", kind).reshape(lens["n_tokens"], d)
    if dtype == "bfloat16":
        unembedding = (unembedding.astype(np.uint32) << 16).view(np.float32)
    if lens["norm"] == "layernorm":
        x = x - x.mean(axis=-1, keepdims=True)
    h = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + lens["eps"]) * weight + shift
    logits = (h @ unembedding.T.astype(float) + np.where(np.isfinite(bias), bias, 0)) * lens["scale"]
    if lens["softcap"] is not None:
        logits = np.tanh(logits / lens["softcap"]) * lens["softcap"]
    logits[..., ~np.isfinite(bias)] = -np.inf
    return logits


def with_lens(path, lens=None, dtype="float32"):
    plan = pl.DataFrame({"sample_id": ["a"]})
    return actstore.create(path, plan=plan, layers=[0, 2], d_model=D, dtype=dtype, lens=lens or made())


# In a store


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(("norm", "softcap"), [("rmsnorm", None), ("layernorm", 4.0)])
def test_a_store_gives_the_lens_back(tmp_path, norm, softcap, dtype):
    store = with_lens(tmp_path / "s", made(norm, softcap), dtype)
    x = np.random.default_rng(1).standard_normal((5, D))
    found = store.lens.logits(store.lens.normed(x))
    assert_allclose(found, by_the_page(store.path, x), rtol=1e-4, atol=1e-4)
    assert (found == -np.inf).sum() == 2 * 5
    some = np.array([7, 3, 0])
    assert_allclose(store.lens.logits(store.lens.normed(x), some), found[:, some], rtol=1e-5)


def test_bit_patterns_are_kept_as_they_are(tmp_path):
    bits = np.arange(TOKENS * D, dtype=np.uint16).reshape(TOKENS, D)
    lens = made()
    store = with_lens(tmp_path / "s", Lens(lens.optics, lens.weight, lens.shift, lens.bias, bits), "bfloat16")
    assert_array_equal(store.lens.unembedding, bits)


def test_most_stores_have_none(tmp_path, capsys):
    assert run(["info", str(with_lens(tmp_path / "lens").path), "--format", "table"]) == 0
    assert "61 tokens, for actstore lens" in capsys.readouterr().out
    store = making.store(tmp_path / "s", 1)
    assert run(["info", str(store.path), "--format", "table"]) == 0
    assert "for actstore lens" not in capsys.readouterr().out
    assert store.lens is None
    assert "lens" not in json.loads((store.path / "actstore.json").read_bytes())


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_never_read(tmp_path, name):
    store = with_lens(tmp_path / "s")
    content = bytearray((store.path / name).read_bytes())
    content[5] ^= 1
    (store.path / name).write_bytes(content)
    with pytest.raises(CorruptError, match=rf"{name}: its bytes differ"):
        _ = actstore.open(store.path).lens
    assert [one.file for one in verify.run(verify.steps(store.path))] == [name]


def test_a_folder_that_is_a_link(tmp_path):
    store = with_lens(tmp_path / "s")
    (store.path / "lens").rename(tmp_path / "elsewhere")
    (store.path / "lens").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptError, match="lens: not a plain folder; a store holds no links"):
        actstore.open(store.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"n_tokens": TOKENS + 1},
        {"n_tokens": 0},
        {"n_tokens": 10**15},
        {"norm": "batchnorm"},
        {"eps": "many"},
        {"eps": -1.0},
        {"scale": 0.0},
        {"scale": 10**400},
        {"softcap": -2.0},
    ],
)
def test_a_header_that_contradicts_its_lens(tmp_path, changes):
    store = with_lens(tmp_path / "s")
    header = records.load(store.path / "actstore.json")
    making.change(store.path / "actstore.json", lens={**header["lens"], **changes})
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(store.path)


@pytest.mark.parametrize("missing", ["lens", "files"])
def test_a_lens_without_its_files_and_files_without_their_lens(tmp_path, missing):
    store = with_lens(tmp_path / "s")
    header = records.load(store.path / "actstore.json")
    header.pop("lens") if missing == "lens" else header["files"].pop("lens/bias.bin")
    (store.path / "actstore.json").write_bytes(records.dump(header))
    with pytest.raises(CorruptError, match="not a header of format 1"):
        actstore.open(store.path)


def test_numbers_that_no_lens_has_with_right_checksums(tmp_path):
    store = with_lens(tmp_path / "s")
    np.full(TOKENS, -np.inf, "<f4").tofile(store.path / "lens/bias.bin")
    header = records.load(store.path / "actstore.json")
    found = commits.File.of(store.path / "lens/bias.bin")
    making.change(store.path / "actstore.json", files={**header["files"], "lens/bias.bin": [found.size, found.crc32c]})
    with pytest.raises(CorruptError, match="bars every token"):
        _ = actstore.open(store.path).lens


def test_an_unembedding_that_cannot_be_kept_leaves_no_store(tmp_path):
    lens = made()
    lens.unembedding[4, 1] = np.nan
    with pytest.raises(actstore.ActstoreError, match="not finite in float32"):
        with_lens(tmp_path / "s", lens)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        lambda one: Lens(one.optics, one.weight[:-1], one.shift, one.bias, one.unembedding),
        lambda one: Lens(one.optics, one.weight * np.nan, one.shift, one.bias, one.unembedding),
        lambda one: Lens(one.optics, one.weight, one.shift, np.abs(one.bias), one.unembedding),
        lambda _: Optics("rmsnorm", 1e-5, 5, softcap=float("nan")),
    ],
)
def test_a_lens_that_is_none(wrong):
    with pytest.raises(actstore.ActstoreError):
        wrong(made())


def test_a_lens_of_another_width(tmp_path):
    with pytest.raises(actstore.ActstoreError, match="width 8, but d_model is 16"):
        with_lens(tmp_path / "s", made(d=8))


# The measure


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


# Of models


@pytest.mark.parametrize("name", [*tiny.SYSTEMS, "llama"])
def test_the_lens_at_the_last_layer_is_what_the_model_says(name):
    """At its last token, with the ten likeliest tokens in their order, for every family."""
    model = tiny.model(name)
    text = "<image> this digit is a" if model.image_token_id is not None else "this digit is a"
    prompts = tiny.prompts([text] * 3)
    encoded = [model.encode(one if "<image>" in text else one._replace(image=None)) for one in prompts]
    lens = lens_of(model, encoded[0], "float32")
    last = [Selection(np.array([one.length - 1])) for one in encoded]
    found = capture_module.capture(model, model.collate(encoded), last, layers=[model.n_layers], next_token=True)
    true = found.next_logits.softmax(-1).topk(10)
    heard = read(lens, found.residual[0].numpy(), k=10)
    assert_array_equal(heard.tokens, true.indices.numpy())
    assert_allclose(heard.probabilities, true.values.numpy(), rtol=2e-4, atol=1e-6)


OTHERS = {
    "layer norm with shift": lambda: GPT2LMHeadModel(
        GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=60, bos_token_id=1, eos_token_id=2)
    ),
    "scaled": lambda: CohereForCausalLM(CohereConfig(**SMALL, logit_scale=0.25, eos_token_id=2)),
    "divided": lambda: GraniteForCausalLM(GraniteConfig(**SMALL, logits_scaling=8.0)),
}  # fmt: skip
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
}


def other(name):
    torch.manual_seed(0)
    module = tiny.spread(OTHERS[name]())
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight) * (weight.ndim == 1))
    return Model(module, tiny.model("llama").processor, family="generic")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", OTHERS)
def test_other_norms_and_heads(name, dtype):
    model = other(name)
    lens = lens_of(model, model.encode(tiny.prompts(["this digit is a"])[0]._replace(image=None)), dtype)
    assert lens.optics.norm == ("rmsnorm" if name == "divided" else "layernorm")
    assert lens.shift.any() == (name == "layer norm with shift")


def test_a_head_that_no_lens_has_is_refused():
    """What a family does not tell is noticed, not kept."""
    model = other("scaled")
    model.module.config.logit_scale = 1.0
    with pytest.raises(LensError, match=r"do not give what CohereForCausalLM says: logits are off by"):
        lens_of(model, model.encode(tiny.prompts(["this digit is a"])[0]._replace(image=None)), "float32")


# From recipe to table


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
    assert (one["rank"], one["rank_q75"]) == (np.median(ranks), np.quantile(ranks, 0.75))
    assert one["entropy"] == pytest.approx(entr(p).sum(-1).mean(), rel=1e-4)
    assert one["right"] == (ranks == 1).mean()


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


def test_the_estimate_counts_it(capsys):
    words = ["extract", "digits-fusion", "nowhere", "--estimate", "--limit", "8", "--set", "capture.lens=true"]
    assert run(words) == 0
    found = {row["kept"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    n_tokens, d = found["lens"]["n"], 64
    assert n_tokens > 100
    assert found["lens"]["MB"] == round((n_tokens * d * 2 + n_tokens * 4 + 8 * d) / 1e6, 2)


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
