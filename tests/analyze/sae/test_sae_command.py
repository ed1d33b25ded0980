"""actstore sae: autoencoders from every kind of file, groups and controls, on a small store and on the demo's."""

import io
import shutil
import zipfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.sae import groups
from actstore_analyze.sae.formats import JumpRelu
from actstore_analyze.sae.measure import reconstruction, rotated, sums
from actstore_analyze.sae.source import source
from actstore_analyze.sae.study import METRICS, Rebuilt
from scoped import FEATURES, D, assert_metrics, command, make_scope, make_store, vectors, weights

DEMO = Path(__file__).parents[3] / "extract/actstore_extract/demo/models/digits-mapped/saes"


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


@pytest.fixture
def scope(tmp_path):
    return make_scope(tmp_path / "scope")


def test_groups_and_layers(store, scope, capsys):
    status, table, err = command(capsys, "sae", store, "--saes", scope, "--average", "token")
    assert status == 0
    assert f"{scope}: no autoencoder for layer 0; left out" in err
    own = table.filter(control="none")
    assert own.select("role", "prompt_order", "layer", "n", "samples", "n_features").rows() == [
        ("image", "image-text", 1, 8, 2, 10),
        ("text", "image-text", 1, 3, 2, 10),
        ("text", "text", 1, 6, 2, 10),
        ("image", "image-text", 2, 8, 2, 10),
        ("text", "image-text", 2, 3, 2, 10),
        ("text", "text", 2, 6, 2, 10),
    ]
    place = ["role", "prompt_order", "condition", "control", "layer", "depth"]
    columns = [*place, *METRICS, "n", "samples", "n_features", "average"]
    assert [name for name in table.columns if not name.endswith(("_low", "_high"))] == columns
    assert_metrics(own.row(0, named=True), reconstruction(vectors("image", 1), JumpRelu(weights(0))))
    assert_metrics(own.row(5, named=True), reconstruction(vectors("text", 2)[3:], JumpRelu(weights(1))))


def test_usual_roles_are_those_that_sql_leaves(store, scope, capsys):
    _, table, _ = command(capsys, "sae", store, "from rows where prompt_order = 'text'", "--saes", scope)
    assert table.select("role", "prompt_order").unique().rows() == [("text", "text")]


def test_an_average_of_examples_is_the_mean_of_their_averages(store, scope, capsys):
    _, table, _ = command(capsys, "sae", store, "--saes", scope, "--roles", "image", "--layers", 1)
    x = vectors("image", 1)
    examples = [asdict(reconstruction(part, JumpRelu(weights(0)))) for part in (x[:3], x[3:])]
    row = table.filter(control="none").row(0, named=True)
    for name in ("squared_error", "mse", "l0", "l0_fraction", "cosine", "relative_error"):
        assert row[name] == pytest.approx(np.mean([example[name] for example in examples])), name
    weight = np.repeat([1 / 3, 1 / 5], [3, 5])
    apart = np.square(x - np.average(x, axis=0, weights=weight)).sum(axis=1)
    assert row["fvu"] == pytest.approx(row["squared_error"] / np.average(apart, weights=weight), rel=1e-5)


@pytest.mark.parametrize("average", ["example", "token"])
def test_intervals_are_of_samples_left_out(tmp_path, scope, capsys, average):
    """Seven samples of 1 to 7 vectors: each is a part of its own, whose vectors are left out together."""
    counts = range(1, 8)
    sample = np.repeat(counts, counts)
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in counts]})
    made = actstore.create(tmp_path / "seven", plan=plan, layers=[1], d_model=D, dtype="float32")
    x = np.random.default_rng(5).standard_normal((1, len(sample), D)).astype(np.float32)
    made.write(0, samples=plan, rows=plan[sample - 1].with_columns(role=pl.lit("image")), residual={"image": x})
    asked = ("sae", tmp_path / "seven", "--saes", scope, "--average", average)
    table = command(capsys, *asked)[1]
    row, turned = (table.filter(control=name).row(0, named=True) for name in ("none", "rotated"))
    weight = 1 / sample if average == "example" else np.ones(len(sample))
    left = [sums(x[0][sample != i], JumpRelu(weights(0)), weight[sample != i]).finish() for i in counts]
    for name in METRICS:
        without = np.array([getattr(one, name) for one in left])
        error = np.sqrt(6 / 7 * np.square(without - without.mean()).sum()) * 2.446912  # Student's t of 6
        to, back, by = (np.arctanh, np.tanh, 1 - row[name] ** 2) if name == "cosine" else (np.log, np.exp, row[name])
        ends = back(to(row[name]) + np.array([-1, 1]) * error / by)
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(ends, rel=1e-4), name
        assert turned[f"{name}_low"] < turned[name] < turned[f"{name}_high"]
    plain = command(capsys, *asked, "--no-interval")[1]
    assert (table["fvu_low"].is_null().to_list(), plain["fvu_low"].null_count()) == ([False, False, True], 3)


def test_conditions_stand_apart(tmp_path, scope, capsys):
    units = pl.DataFrame({"sample_id": ["a", "a", "b", "b"], "condition": ["none", "cut"] * 2})
    made = actstore.create(tmp_path / "cut", plan=units, layers=[1], d_model=D, dtype="float32")
    x = np.random.default_rng(0).standard_normal((1, 4, D)).astype(np.float32)
    samples = units.with_columns(status=pl.lit("ok"))
    made.write(0, samples=samples, rows=units.with_columns(role=pl.lit("image")), residual={"image": x})
    own = command(capsys, "sae", tmp_path / "cut", "--saes", scope)[1].filter(control="none")
    assert own.select("condition", "n", "samples").rows() == [("cut", 2, 2), ("none", 2, 2)]
    assert_metrics(own.row(0, named=True), reconstruction(x[0, 1::2], JumpRelu(weights(0))))
    assert_metrics(own.row(1, named=True), reconstruction(x[0, ::2], JumpRelu(weights(0))))


def test_controls(store, scope, capsys, monkeypatch):
    _, table, _ = command(capsys, "sae", store, "--saes", scope, "--roles", "image", "--average", "token", "--seed", 7)
    turned = table.filter(control="rotated", layer=2).row(0, named=True)
    assert_metrics(turned, reconstruction(rotated(vectors("image", 2), 7), JumpRelu(weights(1))))
    drawn = table.filter(control="gaussian", layer=2).row(0, named=True)
    assert drawn["n"] == 8
    x = np.random.default_rng(0).multivariate_normal(
        vectors("image", 2).mean(axis=0), np.cov(vectors("image", 2).T), 50_000, method="eigh", check_valid="ignore"
    )
    expected = reconstruction(x, JumpRelu(weights(1)))
    assert drawn["mse"] == pytest.approx(expected.mse, rel=0.9)  # eight draws


def test_equal_vectors_have_no_variance_when_they_are_rotated(tmp_path, scope):
    """Float32 makes of a long equal row other ends than of its neighbour: that is no variance."""
    units = pl.DataFrame({"sample_id": [f"s{i}" for i in range(50)]})
    made = actstore.create(tmp_path / "equal", plan=units, layers=[1], d_model=D, dtype="float32")
    x = np.tile(np.random.default_rng(1).standard_normal(D).astype(np.float32), (1, 50, 1))
    samples = units.with_columns(status=pl.lit("ok"))
    made.write(0, samples=samples, rows=units.with_columns(role=pl.lit("image")), residual={"image": x})
    table = made.measure.sae(saes=str(scope), no_interval=True).table
    assert dict(table.filter(pl.col("control") != "gaussian").select("control", pl.col("fvu").is_nan()).rows()) == {
        "none": True, "rotated": True,
    }  # fmt: skip


def gaussian(path, scope, average, monkeypatch):
    """The row of 40,000 Gaussian vectors of the images at layer 2."""
    monkeypatch.setattr("actstore_analyze.sae.study.min", lambda *_: 40_000, raising=False)
    store, asked = actstore.open(path), {"saes": str(scope), "roles": ["image"], "layers": [2], "seed": 3}
    table = Rebuilt.of(store, average=average, **asked).table(store, say=print)
    return table.filter(control="gaussian").row(0, named=True)


def test_gaussian_control_has_the_shape_of_the_group(store, scope, monkeypatch):
    found = gaussian(store, scope, "token", monkeypatch)
    x = np.random.default_rng(0).multivariate_normal(
        vectors("image", 2).mean(axis=0), np.cov(vectors("image", 2).T), 40_000, method="eigh", check_valid="ignore"
    )
    expected = reconstruction(x, JumpRelu(weights(1)))
    assert found["n"] == 40_000
    for name in ("mse", "l0", "fvu", "cosine", "relative_error"):
        assert found[name] == pytest.approx(getattr(expected, name), rel=0.03), name


def test_gaussian_control_weighs_vectors_as_the_average_does(tmp_path, scope, monkeypatch):
    lengths = (2, 10)  # of the examples, of which the short one lies apart
    x = np.random.default_rng(0).standard_normal((12, D)).astype(np.float32) + np.repeat([[4], [0]], lengths, axis=0)
    units = pl.DataFrame({"sample_id": ["a", "b"]})
    made = actstore.create(tmp_path / "unequal", plan=units, layers=[2], d_model=D, dtype="float32")
    rows = pl.DataFrame({"sample_id": np.repeat(["a", "b"], lengths).tolist(), "role": "image"})
    made.write(0, samples=units.with_columns(status=pl.lit("ok")), rows=rows, residual={"image": x[None]})
    found = gaussian(made.path, scope, "example", monkeypatch)
    weight = np.repeat([1 / n for n in lengths], lengths)
    shapes = [
        (np.average(x, axis=0, weights=w), np.cov(x.T, aweights=w, ddof=0) * len(x) / (len(x) - 1))
        for w in (weight, np.ones(len(x)))
    ]
    weighted, plain = (
        reconstruction(
            np.random.default_rng(0).multivariate_normal(*shape, 40_000, method="eigh", check_valid="ignore"),
            JumpRelu(weights(1)),
        )
        for shape in shapes
    )
    assert abs(weighted.squared_error / plain.squared_error - 1) > 0.1  # else this would show nothing
    for name in ("squared_error", "l0", "fvu", "cosine", "relative_error"):
        assert found[name] == pytest.approx(getattr(weighted, name), rel=0.02), name


def test_an_untrained_adapter_is_another_store(store, scope, tmp_path, capsys):
    other = make_store(tmp_path / "untrained", shift=0.25)
    _, table, _ = command(capsys, "sae", store, "--saes", scope, "--untrained", other, "--average", "token")
    found = table.filter(control="untrained", layer=2)
    assert found.select("role", "prompt_order").rows() == [("image", "image-text"), ("text", "image-text")]
    assert_metrics(found.row(0, named=True), reconstruction(vectors("image", 2) + 0.25, JumpRelu(weights(1))))
    _, _, err = command(capsys, "sae", store, "--saes", scope, "--untrained", other, "--average", "token")
    assert "recalled from" in err
    make_store(tmp_path / "again", shift=0.5)
    assert run(["sae", str(store), "--saes", str(scope), "--untrained", str(scope)]) == 1


def test_small_pieces_and_two_processes_give_the_same(store, scope, capsys, monkeypatch):
    asked = ("sae", store, "--saes", scope, "--force")
    _, together, _ = command(capsys, *asked)
    _, apart, _ = command(capsys, *asked, "--jobs", 2)
    assert apart.equals(together)
    monkeypatch.setattr(groups, "READ_BYTES", 8 * D)
    monkeypatch.setattr(groups, "ENCODE_BYTES", 4 * FEATURES)
    _, pieces, _ = command(capsys, *asked)
    for name in (*METRICS, *(f"{metric}_low" for metric in METRICS)):
        values, expected = (table[name].drop_nulls().to_list() for table in (pieces, together))
        assert values == pytest.approx(expected, rel=1e-4, abs=1e-6), name


def test_the_second_call_is_recalled_until_the_weights_change(store, scope, capsys):
    asked = ("sae", store, "--saes", scope, "--roles", "image", "--layers", "1")
    _, first, _ = command(capsys, *asked)
    _, second, err = command(capsys, *asked)
    assert second.equals(first)
    assert "recalled from" in err
    np.savez(next(scope.glob("layer_0/*/*/params.npz")), **weights(5))
    _, third, err = command(capsys, *asked)
    assert "saved as" in err
    assert not third.equals(first)


def test_figure(store, scope, tmp_path, capsys):
    drawn = tmp_path / "sae.svg"
    assert command(capsys, "sae", store, "--saes", scope, "--figure", drawn)[0] == 0
    text = drawn.read_text()
    for words in (
        "As the paper plots it",
        "As its equation says",
        "control: rotated",
        "control: Gaussian",
        "text alone",
    ):
        assert words in text


def test_report(store, scope, tmp_path, capsys):
    assert run(["sae", str(store), "--saes", str(scope), "--roles", "image"]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    for words in (
        "Reconstruction by sparse autoencoders, averaged per example",
        "a curve that falls for the controls too says nothing about features",
        "actstore sae store --roles image --layers 1,2 --saes scope --hook post",
        "number l of the output of block l (residual point l + 1)",
    ):
        assert words in page, words
    assert "fingerprints" not in page
    assert str(tmp_path) not in page
    (drawn,) = (tmp_path / "report_files").glob("reconstruction*.svg")
    assert "control: rotated" in drawn.read_text()


@pytest.mark.parametrize(
    ("name", "hook", "points"),
    [
        ("{scope}", None, (1, 2)),
        ("{scope}/layer_{{layer}}/*/*/params.npz", None, (1, 2)),
        ("{demo}", None, (*range(9),)),
    ],
)
def test_where_autoencoders_belong(scope, name, hook, points):
    found = source(name.format(scope=scope, demo=DEMO), hook=hook)
    assert found.points == points
    assert found.load(points[-1], {1: 64}.get(len(points) == 9, D)).n_features in (FEATURES, 256)


def test_those_that_ship_have_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = source("digits-mapped")
    assert (found.name, found.points, found.hook) == ("digits-mapped", tuple(range(9)), "pre")
    assert found.fingerprints == source(str(DEMO)).fingerprints


def test_hook_moves_the_numbers_of_a_folder_that_says_nothing(scope):
    assert source(str(DEMO), hook="post").points == tuple(range(1, 10))
    with pytest.raises(ActstoreError, match="--hook pre, but its configuration says post"):
        source(str(scope), hook="pre")


def test_sae_lens_and_a_naive_line_agree(tmp_path):
    """The demo's autoencoder of layer 3, by its weights: a threshold for each feature, b_dec taken off before."""
    from safetensors.numpy import load_file

    held = {name: x.astype(np.float64) for name, x in load_file(DEMO / "layer-3" / "sae_weights.safetensors").items()}
    sae = source(str(DEMO)).load(3, 64)
    x = np.random.default_rng(0).standard_normal((20, 64)) * 10
    raw = np.maximum((x - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    features = raw * (raw > held["threshold"])
    assert np.count_nonzero(features)
    np.testing.assert_allclose(sae.encode(x), features, atol=1e-3)
    np.testing.assert_allclose(sae.decode(features), features @ held["W_dec"] + held["b_dec"], atol=1e-3)


def test_a_negative_threshold_lets_nothing_below_zero_through():
    eye, none = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    sae = JumpRelu({"W_enc": eye, "W_dec": eye, "b_enc": none, "b_dec": none, "threshold": none - 1})
    assert sae.encode(np.array([[0.5, -0.5]])).tolist() == [[0.5, 0]]


def test_releases_are_known_by_their_ids(monkeypatch):
    found = source("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical")
    assert found.points == tuple(range(1, 27))
    assert (found.hook, str(found.entries[4])) == (
        "post",
        "gemma-scope-2b-pt-res-canonical layer_4/width_16k/canonical",
    )
    with pytest.raises(ActstoreError, match=r"no release 'gemma-scope-2b-pt-res-canonica'; did you mean"):
        source("gemma-scope-2b-pt-res-canonica", "layer_{layer}/x")
    with pytest.raises(ActstoreError, match=r"fits 'layer_1/width_16k/canonical'; with \{layer\} in place"):
        source("gemma-scope-2b-pt-res-canonical", "layer_1/width_16k/canonical")


def header(*shape):
    """The beginning of a .npy that declares more than any memory."""
    held = io.BytesIO()
    np.lib.format.write_array_header_1_0(held, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return held.getvalue()


def broken(tmp_path, what):
    """A folder of one autoencoder that cannot be used."""
    folder = tmp_path / what / "layer-1"
    folder.mkdir(parents=True)
    if what == "wide":
        wider = {"W_enc": np.ones((9, FEATURES)), "W_dec": np.ones((FEATURES, 9)), "b_dec": np.ones(9)}
        np.savez(folder / "params.npz", **weights(0) | wider)
    if what == "two":
        for name in "ab":
            (folder / name).mkdir()
            np.savez(folder / name / "params.npz", **weights(0))
    if what == "torn":
        (folder / "params.npz").write_bytes(b"PK no")
    if what == "pickled":
        np.savez(folder / "params.npz", **weights(0) | {"W_enc": np.array([{}], dtype=object)})
    if what == "bare":
        (folder / "cfg.json").write_text("{}")
    if what == "list":
        (folder / "cfg.json").write_text("[]")
    if what == "array":
        with (folder / "params.npz").open("wb") as file:
            np.save(file, np.ones(3))
    if what == "vast":
        with zipfile.ZipFile(folder / "params.npz", "w") as archive:
            for name in weights(0):
                archive.writestr(f"{name}.npy", header(10**7, 10**7))
    if what == "cut":
        shutil.copytree(DEMO / "layer-1", folder, dirs_exist_ok=True)
        kept = folder / "sae_weights.safetensors"
        kept.write_bytes(kept.read_bytes()[:-100])
    if what == "twice":
        (tmp_path / what / "layer_01").mkdir()
    return tmp_path / what


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("wide", "params.npz reads vectors of width 9, the store holds 6: it is of another model"),
        ("two", "2 params.npz in it"),
        ("torn", "params.npz: not a params.npz of Gemma Scope"),
        ("pickled", "params.npz: not a params.npz of Gemma Scope"),
        ("bare", "layer-1: sae-lens cannot load it"),
        ("list", "layer-1"),
        ("array", "params.npz: not a params.npz of Gemma Scope"),
        ("vast", "params.npz"),
        ("cut", "layer-1"),
        ("empty", "neither cfg.json nor params.npz in it"),
        ("twice", "are both of layer 1; name one autoencoder"),
    ],
)
def test_files_that_cannot_be_used(store, tmp_path, capsys, what, message):
    status, _, err = command(capsys, "sae", store, "--saes", broken(tmp_path, what))
    assert status == 1
    assert message in err.splitlines()[-1]
    said = [line for line in err.splitlines() if " of 1 units" not in line]  # a bar, where that takes seconds
    assert len(said) <= 2  # layer 0 has no autoencoder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--saes", "{scope}", "--layers", "0,1"], "has no autoencoder for layer 0, only for 1, 2"),
        (["--saes", "nowhere"], "nowhere: no such folder; for a release of sae-lens give its id too"),
        (["--saes", "nowhere/{{layer}}"], "no autoencoder found there"),
        (["--saes", "{scope}", "--roles", "imag"], "no role 'imag'"),
        (["select 1 as n", "--saes", "{scope}"], "gives no row_id"),
        (["from rows union all from rows", "--saes", "{scope}"], "a row_id more than once"),
        (["from rows where role = 'image'", "--saes", "{scope}", "--roles", "text"], "selects no row of role 'text'"),
        (["from rows where false", "--saes", "{scope}"], "selects no row of role 'image'"),
        (["--saes", "{scope}", "--figure", "x.jpg"], "written as .png, .svg"),
    ],
)
def test_wrong_calls_end_in_one_line(store, scope, capsys, arguments, message):
    status, _, err = command(capsys, "sae", store, *(argument.format(scope=scope) for argument in arguments))
    assert status == 1
    assert message in err
    assert len(err.splitlines()) == 1


def test_without_sae_lens_the_command_says_what_to_install(store, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sae_lens", None)
    assert run(["sae", str(store), "--saes", "some-release", "--sae-id", "layer_{layer}/x"]) == 1
    assert "pip install 'sae-lens>=6.52'" in capsys.readouterr().err
