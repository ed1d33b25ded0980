"""Autoencoders on PyTorch's CPU, as they are on a GPU, against those with numpy and naive lines in float64."""

import json
from dataclasses import asdict

import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import actstore
from actstore.commands.main import run
from actstore_analyze.devices import Torch
from actstore_analyze.sae import measure
from actstore_analyze.sae.formats import JumpRelu, LensFolder
from actstore_analyze.sae.measure import apart, moments, reconstruction
from actstore_analyze.sae.study import METRICS
from scoped import FEATURES, Dense, make_scope, make_store, wide

TORCH = Torch("cpu")


@pytest.mark.parametrize("threshold", [-1, 0.5, 2, 100])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_same_numbers_as_all_features_in_float64(threshold, kind):
    x = np.random.default_rng(1).standard_normal((measure.ROWS + 3, 48)).astype(np.float32).astype(kind)
    weights = wide(threshold)
    found = reconstruction(x, JumpRelu(weights).on(TORCH))
    expected = reconstruction(x.astype(np.float64), Dense(weights))
    for name in METRICS:
        assert getattr(found, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-12), name


def test_parts_stand_apart_with_their_weights():
    rng = np.random.default_rng(1)
    x, parts = rng.standard_normal((measure.ROWS + 40, 48)).astype(np.float32), rng.integers(3, 9, measure.ROWS + 40)
    weights, sae = rng.random(len(x)), JumpRelu(wide(2))
    here, there = apart(x, sae, parts, weights), apart(x, sae.on(TORCH), parts, weights)
    assert here.keys() == there.keys() == {*range(3, 9)}
    for part, sums in here.items():
        for name, value in asdict(sums).items():
            np.testing.assert_allclose(getattr(there[part], name), value, rtol=1e-5, atol=1e-6)


def test_features_that_are_switched_off_by_infinity_stay_off():
    weights = wide(0.5)
    weights["b_enc"][3], weights["threshold"][4] = -np.inf, np.inf
    sae = JumpRelu(weights).on(TORCH)
    counts, rebuilt = sae.rebuild(np.ones((2, 48), np.float32))
    assert np.isfinite(rebuilt).all()
    assert (sae.encode(np.ones((2, 48), np.float32))[:, 3:5] == 0).all()
    assert counts[0] == counts[1] > 0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"normalize_activations": "layer_norm"}])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu", "topk"])
def test_those_of_sae_lens_run_there_as_they_are(tmp_path, architecture, options):
    from sae_lens import SAE

    torch.manual_seed(0)
    config = {"architecture": architecture, "d_in": 12, "d_sae": 90, "dtype": "float32", "device": "cpu", **options}
    kind = SAE.get_sae_class_for_architecture(architecture)
    kind.from_dict(config | ({"k": 3} if architecture == "topk" else {})).save_model(tmp_path / "sae")
    x = np.random.default_rng(0).standard_normal((50, 12)).astype(np.float32)
    here, there = LensFolder(tmp_path / "sae").load(), LensFolder(tmp_path / "sae").load().on(TORCH)
    np.testing.assert_array_equal(there.encode(x), here.encode(x))
    (counts, rebuilt), (expected_counts, expected) = there.rebuild(x), here.rebuild(x)
    assert counts.tolist() == expected_counts.tolist()
    np.testing.assert_allclose(rebuilt, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(there.decode(there.encode(x)), rebuilt, rtol=1e-4, atol=1e-5)


def test_moments_and_gaussian_vectors_are_those_of_numpy():
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((100, 7)).astype(np.float32), rng.random(100)
    here, there = moments(x, weights), moments(x, weights, device=TORCH)
    np.testing.assert_allclose(there.scatter, here.scatter, rtol=1e-12)
    drawn = [np.concatenate(list(here.draw(9, 1, batch=4, **on))) for on in ({}, {"device": TORCH})]
    np.testing.assert_allclose(*drawn, rtol=1e-12)


def test_the_command_gives_the_same_table_and_says_where(tmp_path, gpu, monkeypatch):
    store, scope = actstore.open(make_store(tmp_path / "store")), make_scope(tmp_path / "scope")
    here = store.measure.sae(saes=str(scope)).table
    monkeypatch.setattr(JumpRelu, "rebuild", None)  # nothing is rebuilt with numpy now
    found = store.measure.sae(saes=str(scope), device="cuda", force=True)
    assert {*found.table["control"]} == {"none", "rotated", "gaussian"}
    ends = [f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")]
    assert found.table.drop(ends).equals(here.drop(ends))
    for name in ends:
        a, b = (one[name].to_numpy() for one in (found.table, here))
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6, err_msg=name)
    assert store.results()[0].device == "cuda (Test 1)"
    assert "on a GPU, cuda (Test 1)" in found.methods


def test_features_and_their_descriptions_are_those_of_numpy(tmp_path, gpu, capsys, monkeypatch):
    store, scope = make_store(tmp_path / "store"), make_scope(tmp_path / "scope")
    for own in scope.iterdir():
        said = [{"modelId": "m", "index": str(one), "explanations": [{"description": f"{one}"}], "frac_nonzero": 0.001}
                for one in range(FEATURES)]  # fmt: skip
        (tmp_path / "texts" / own.name).mkdir(parents=True)
        (tmp_path / "texts" / own.name / "batch-0.json").write_text(json.dumps(said))
    described = ["--descriptions", str(tmp_path / "texts"), "--most-images", "1", "--text", "all"]
    for words in (["features"], ["describe", *described]):
        found = []
        for device in ("cpu", "cuda"):
            with monkeypatch.context() as only:
                if device == "cuda":
                    only.setattr(JumpRelu, "encode", None)
                asked = [*words, str(store), "--saes", str(scope), "--device", device, "--force"]
                assert run([*asked, "--format", "json"]) == 0
            found.append(pl.DataFrame(json.loads(capsys.readouterr().out), infer_schema_length=None))
        assert found[0].height > 10
        assert_frame_equal(*found, rel_tol=1e-4, abs_tol=1e-5)
        assert actstore.open(store).results()[-1].device == "cuda (Test 1)"
