"""Autoencoders that multiply their active features alone, some positions of each sample, and no controls."""

import numpy as np
import pytest

import scoped
from actstore_analyze.sae import active, formats, measure
from actstore_analyze.sae.formats import JumpRelu, LensFolder
from actstore_analyze.sae.measure import reconstruction
from actstore_analyze.sae.study import METRICS
from scoped import Dense, wide


@pytest.fixture
def store(tmp_path):
    return scoped.make_store(tmp_path / "store")


@pytest.fixture
def scope(tmp_path):
    return scoped.make_scope(tmp_path / "scope")


@pytest.mark.parametrize("threshold", [-1, 0.5, 2, 3, 100])
def test_the_same_numbers_as_all_features_in_float64(threshold):
    """From half of the features active to none; more vectors than are rebuilt at a time."""
    x = np.random.default_rng(1).standard_normal((2 * measure.ROWS + 3, 48)).astype(np.float32)
    weights = wide(threshold)
    found, expected = reconstruction(x, JumpRelu(weights)), reconstruction(x.astype(np.float64), Dense(weights))
    for name in METRICS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-12), name
    assert (found.l0 > 700 * active.DENSE) == (threshold < 2)


def test_features_are_those_that_are_rebuilt():
    x = np.random.default_rng(1).standard_normal((40, 48)).astype(np.float32)
    sae = JumpRelu(wide(2))
    features = sae.encode(x)
    counts, rebuilt = sae.rebuild(x)
    assert counts.tolist() == np.count_nonzero(features, axis=1).tolist()
    assert 0 < counts.mean() < 100
    np.testing.assert_allclose(rebuilt, sae.decode(features), rtol=1e-4, atol=1e-5)
    naive = Dense(wide(2)).encode(x)
    np.testing.assert_allclose(features, naive, rtol=1e-4, atol=1e-6)


def test_features_that_are_switched_off_by_infinity_stay_off():
    weights = wide(0.5)
    weights["b_enc"][3], weights["threshold"][4] = -np.inf, np.inf
    counts, rebuilt = JumpRelu(weights).rebuild(np.ones((2, 48), np.float32))
    assert np.isfinite(rebuilt).all()
    assert (JumpRelu(weights).encode(np.ones((2, 48), np.float32))[:, 3:5] == 0).all()
    assert counts[0] == counts[1]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("architecture", "options", "is_affine"),
    [
        ("standard", {}, True),
        ("jumprelu", {}, True),
        ("topk", {"k": 3, "rescale_acts_by_decoder_norm": False}, True),
        ("topk", {"k": 3, "rescale_acts_by_decoder_norm": True}, False),
        ("standard", {"normalize_activations": "layer_norm"}, False),
    ],
)
def test_those_of_sae_lens_are_rebuilt_as_sae_lens_does(tmp_path, architecture, options, is_affine):
    """By active features where decoding is a product and a bias, else by sae-lens itself."""
    import torch
    from sae_lens import SAE

    torch.manual_seed(0)
    config = {"architecture": architecture, "d_in": 12, "d_sae": 90, "dtype": "float32", "device": "cpu"}
    sae = SAE.get_sae_class_for_architecture(architecture).from_dict({**config, **options})
    with torch.no_grad():
        sae.W_dec *= torch.rand(90, 1) + 0.5
        sae.b_enc += 0.1 * torch.randn(90)
    sae.save_model(tmp_path / "sae")
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    ours = LensFolder(tmp_path / "sae").load()
    counts, rebuilt = ours.rebuild(x)
    with torch.no_grad():
        features = sae.encode(torch.from_numpy(x))
        expected = sae.decode(features).numpy()
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-4, atol=1e-5)
    assert counts.tolist() == (features.to_dense() != 0).sum(dim=1).tolist()
    assert (ours._decoder is not None) == is_affine


def test_without_controls_nothing_is_rebuilt_of_them(store, scope, capsys, monkeypatch):
    seen, rebuild = [], JumpRelu.rebuild

    def counted(sae, x):
        seen.append(len(x))
        return rebuild(sae, x)

    monkeypatch.setattr(formats.JumpRelu, "rebuild", counted)
    ask = ("sae", store, "--saes", scope, "--roles", "image", "--layers", 1)
    _, every, _ = scoped.command(capsys, *ask)
    assert sum(seen) == 3 * 8
    seen.clear()
    _, bare, _ = scoped.command(capsys, *ask, "--no-controls")
    assert sum(seen) == 8
    assert bare["control"].to_list() == ["none"]
    assert bare.equals(every.filter(control="none"))
    seen.clear()
    _, untrained, _ = scoped.command(capsys, *ask, "--no-controls", "--untrained", store)
    assert untrained["control"].to_list() == ["none", "untrained"]


@pytest.mark.parametrize("average", ["example", "token"])
def test_some_positions_of_each_sample(store, scope, capsys, tmp_path, average):
    """Sample a has 3 images tokens, b 5: drawn by the seed, of both as many, weighed as all of theirs are."""
    picture = tmp_path / "s.svg"
    ask = ("sae", store, "--saes", scope, "--roles", "image", "--layers", 1, "--average", average, "--no-controls")
    _, table, _ = scoped.command(capsys, *ask, "--positions", 4, "--seed", 5, "--figure", picture)
    row = table.row(0, named=True)
    keys = np.random.default_rng(5).random(8)
    kept = [np.arange(3), 3 + np.sort(np.argsort(keys[3:])[:4])]
    x, sae = scoped.vectors("image", 1), JumpRelu(scoped.weights(0))
    weights = [1, 1] if average == "example" else [3, 5]
    means = [reconstruction(x[own], sae) for own in kept]
    assert (row["n"], row["samples"], row["positions"]) == (7, 2, 4)
    for name in ("squared_error", "mse", "l0", "l0_fraction", "cosine", "relative_error"):
        values = [getattr(one, name) for one in means]
        assert row[name] == pytest.approx(np.average(values, weights=weights)), name
        error = abs(np.diff(values)[0]) / 2 * 12.7062  # of two samples, each left out; Student's t of 1
        to, back, by = (np.arctanh, np.tanh, 1 - row[name] ** 2) if name == "cosine" else (np.log, np.exp, row[name])
        ends = back(to(row[name]) + np.array([-1, 1]) * error / by)
        assert [row[f"{name}_low"], row[f"{name}_high"]] == pytest.approx(ends, rel=1e-4), name
    assert "at most 4 drawn of each sample" in picture.read_text("utf-8")
    _, every, _ = scoped.command(capsys, *ask)
    _, enough, _ = scoped.command(capsys, *ask, "--positions", 5)
    assert enough.select(METRICS).row(0) == pytest.approx(every.select(METRICS).row(0))
    assert "positions" not in every.columns


def test_controls_of_drawn_vectors_stand_beside_them(store, scope, capsys):
    ask = ("sae", store, "--saes", scope, "--roles", "image", "--layers", 1, "--positions", 2, "--untrained", store)
    _, table, _ = scoped.command(capsys, *ask)
    assert table["control"].to_list() == ["none", "rotated", "gaussian", "untrained"]
    assert table["n"].to_list() == [4] * 4
    own, _, gaussian, untrained = table.iter_rows(named=True)
    assert gaussian["mse_low"] is None
    assert own["mse_low"] is not None
    assert untrained["mse"] == own["mse"]
