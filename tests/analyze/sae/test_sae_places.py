"""actstore sae: what an autoencoder's configuration says of its place and its vectors is obeyed, or refused."""

import json

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.sae.configuration import Configuration
from actstore_analyze.sae.source import source

D, FEATURES, N = 6, 10, 7
MODERN = {"architecture": "standard", "normalize_activations": "none", "reshape_activations": "none"}


def vectors(layer):
    return np.random.default_rng(layer).standard_normal((N, D)).astype(np.float32) * (layer + 1) + layer


@pytest.fixture
def store(tmp_path):
    """Residual points 0..2 of a model of two blocks: N samples with one image vector each."""
    units = pl.DataFrame({"sample_id": [str(i) for i in range(N)]})
    made = actstore.create(tmp_path / "s", plan=units, layers=range(3), d_model=D, dtype="float32", run={"n_layers": 2})
    made.write(
        0,
        samples=units.with_columns(status=pl.lit("ok")),
        rows=units.with_columns(role=pl.lit("image")),
        residual={"image": np.stack([vectors(layer) for layer in range(3)])},
    )
    return tmp_path / "s"


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"W_enc": (D, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, D), "b_dec": (D,)}
    return {name: rng.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}


def folder(path, said, **changed):
    """What sae-lens saves; said: of metadata where a key is there, of the configuration otherwise."""
    path.mkdir(parents=True)
    save_file(weights() | changed, path / "sae_weights.safetensors")
    modern = {"d_in": D, "d_sae": FEATURES, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True} | MODERN
    metadata = {"sae_lens_version": "6.54.12"}
    (path / "cfg.json").write_text(json.dumps(modern | {"metadata": metadata} | said))
    return path.parent


def place(name, **more):
    return {"metadata": {"sae_lens_version": "6.54.12", "hook_name": name} | more}


def fvu(x, scale=1.0):
    """Of the weights, by hand; scale: what the vectors are multiplied by before."""
    held = {name: value.astype(np.float64) for name, value in weights().items()}
    x = x.astype(np.float64)
    features = np.maximum((x * scale - held["b_dec"]) @ held["W_enc"] + held["b_enc"], 0)
    rebuilt = (features @ held["W_dec"] + held["b_dec"]) / scale
    return np.square(x - rebuilt).sum() / np.square(x - x.mean(axis=0)).sum()


def measured(capsys, store, saes, *more):
    """Exit status, fvu by layer, and what was said."""
    status = run(["sae", str(store), "--saes", str(saes), "--roles", "image", *more])
    out, err = capsys.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    return status, {row["layer"]: row["fvu"] for row in rows if row["control"] == "none"}, err


def assert_refused(capsys, store, saes, message, *more):
    status, found, err = measured(capsys, store, saes, *more)
    assert (status, found) == (1, {})
    assert message in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("blocks.1.hook_mlp_out", "an MLP"),
        ("blocks.1.hook_attn_out", "attention"),
        ("blocks.1.attn.hook_z", "attention"),
        ("blocks.1.attn.hook_result", "attention"),
        ("blocks.1.ln1.hook_normalized", "a normalised vector"),
        ("blocks.1.hook_resid_mid", "the residual stream between attention and MLP"),
        ("hook_embed", "embeddings before the first block"),
        ("model.layers.1.mlp", "an MLP"),
        ("model.layers.1.self_attn.o_proj.input", "attention"),
        ("model.vision_tower.encoder.layers.1.output", ""),
        ("blocks.1.hook_resid_posted", ""),
    ],
)
def test_a_place_that_no_store_keeps_is_refused_by_name(store, tmp_path, capsys, name, kind):
    saes = folder(tmp_path / "saes" / "layer_1", place(name))
    for more in ((), ("--hook", "pre")):
        assert_refused(capsys, store, saes, f"layer_1: it is of {name}{f' ({kind})' if kind else ''}; a store", *more)


@pytest.mark.parametrize(
    ("said", "point"),
    [
        (place("blocks.1.hook_resid_pre"), 1),
        (place("blocks.1.hook_resid_post"), 2),
        (place("blocks.1.hook_out"), 2),
        (place("model.layers.1.output"), 2),
        (place("model.language_model.layers.1.input"), 1),
        (place("model.layers.1", model_class_name="AutoModelForCausalLM"), 2),
        ({"metadata": {}, "hook_point": "blocks.1.hook_resid_post", "hook_point_layer": 1}, 2),
        ({"metadata": {}, "hook_name": "blocks.1.hook_resid_pre", "hook_layer": 1}, 1),
        ({}, 1),
    ],
)
def test_it_is_measured_where_its_configuration_says(store, tmp_path, capsys, said, point):
    status, found, _ = measured(capsys, store, folder(tmp_path / "saes" / "layer_1", said))
    assert status == 0
    assert found == {point: pytest.approx(fvu(vectors(point)), rel=1e-4)}


def test_each_folder_speaks_for_itself(store, tmp_path, capsys):
    folder(tmp_path / "saes" / "layer_0", place("blocks.0.hook_resid_pre"))
    saes = folder(tmp_path / "saes" / "layer_1", place("blocks.1.hook_resid_post"))
    status, found, _ = measured(capsys, store, saes)
    assert status == 0
    assert found == {point: pytest.approx(fvu(vectors(point)), rel=1e-4) for point in (0, 2)}
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    assert "each of the input or the output of a block, as its configuration says" in (tmp_path / "r.html").read_text()
    capsys.readouterr()
    folder(tmp_path / "saes" / "layer_2", place("blocks.2.hook_resid_pre"))
    assert_refused(capsys, store, saes, "layer_1 and " + str(saes / "layer_2") + " are both of residual point 2")


def test_a_module_alone_needs_its_side(store, tmp_path, capsys):
    saes = folder(tmp_path / "saes" / "layer_1", place("model.layers.1"))
    assert_refused(capsys, store, saes, "names block 1, not whether its input or its output: say --hook post")
    for side, point in (("pre", 1), ("post", 2)):
        found = measured(capsys, store, saes, "--hook", side)[1]
        assert found == {point: pytest.approx(fvu(vectors(point)), rel=1e-4)}


def test_names_and_configurations_must_agree(store, tmp_path, capsys):
    one = folder(tmp_path / "one" / "layer_2", place("blocks.0.hook_resid_post"))
    assert_refused(capsys, store, one, "its name says 2, its configuration block 0 (post, residual point 1)")
    two = folder(tmp_path / "two" / "layer_1", place("blocks.1.hook_resid_post", hook_layer=5))
    assert_refused(capsys, store, two, "says blocks.1.hook_resid_post, but layer 5")
    folder(tmp_path / "three" / "layer_0", place("blocks.0.hook_resid_post"))
    three = folder(tmp_path / "three" / "layer_1", {})
    assert_refused(capsys, store, three, "layer_1 does not say where it was trained, others of")
    by_point = folder(tmp_path / "four" / "layer_2", place("blocks.1.hook_resid_post"))
    assert list(measured(capsys, store, by_point)[1]) == [2]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"architecture": "transcoder", "d_out": D}, "a transcoder (transcoder, from None to None)"),
        (
            place("blocks.1.hook_resid_pre", hook_name_out="blocks.1.hook_resid_post"),
            "a transcoder (standard, from blocks.1.hook_resid_pre to blocks.1.hook_resid_post)",
        ),
        ({"architecture": "temporal"}, "architecture temporal is not one that is read here"),
        (place("blocks.1.hook_resid_pre", hook_head_index=3), "it is of attention head 3 alone"),
        ({"reshape_activations": "hook_z"}, "it reads vectors reshaped (hook_z)"),
        ({"metadata": {}, "activation_fn_str": "tanh-relu"}, "activation tanh-relu is not done by sae-lens any more"),
        ({"metadata": {}, "activation_fn": "topk", "activation_fn_kwargs": {}}, "activation topk is not done"),
        (place("", model_from_pretrained_kwargs={"center_writing_weights": True}), "center_writing_weights"),
        ({"normalize_activations": "expected_average_only_in"}, "the factor is not beside it"),
        ({"normalize_activations": "covariance_whitening"}, "the factor is not beside it"),
        ({"normalize_activations": "unheard"}, "sae-lens cannot load it: normalize_activations must be"),
    ],
)
def test_what_is_not_done_is_refused(store, tmp_path, capsys, said, message):
    assert_refused(capsys, store, folder(tmp_path / "saes" / "layer_1", said), message)


def test_a_factor_beside_the_weights_is_taken(store, tmp_path, capsys):
    saes = folder(tmp_path / "saes" / "layer_1", {"normalize_activations": "expected_average_only_in"})
    (saes / "layer_1" / "activation_scaler.json").write_text('{"scaling_factor": 0.25, "has_whitening": false}')
    status, found, _ = measured(capsys, store, saes)
    assert status == 0
    assert found == {1: pytest.approx(fvu(vectors(1), scale=0.25), rel=1e-4)}
    assert found[1] != pytest.approx(fvu(vectors(1)), rel=0.01)  # else this would show nothing
    (saes / "layer_1" / "cfg.json").write_text((saes / "layer_1" / "cfg.json").read_text().replace("expected_", "no_"))
    assert_refused(capsys, store, saes, "sae-lens cannot load it")


def test_a_factor_that_the_configuration_denies_is_refused(store, tmp_path, capsys):
    saes = folder(tmp_path / "saes" / "layer_1", {})
    (saes / "layer_1" / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
    assert_refused(capsys, store, saes, "has a factor of expected_average_only_in, but the configuration says")


@pytest.mark.parametrize(("name", "value"), [("W_dec", np.nan), ("b_dec", np.inf), ("b_enc", np.nan)])
def test_weights_that_are_no_numbers_are_refused(store, tmp_path, capsys, name, value):
    bad = weights()[name]
    bad.flat[3] = value
    said = f"1 of {bad.size} values of {name} are NaN or infinite"
    assert_refused(capsys, store, folder(tmp_path / "saes" / "layer_1", {}, **{name: bad}), said)
    (tmp_path / "scope" / "layer_0").mkdir(parents=True)
    threshold = {"threshold": np.full(FEATURES, np.inf, np.float32)}  # switches features off
    np.savez(tmp_path / "scope" / "layer_0" / "params.npz", **weights() | threshold | {name: bad})
    assert_refused(capsys, store, tmp_path / "scope", said)


def test_torn_weights_end_in_one_line(store, tmp_path, capsys):
    saes = folder(tmp_path / "saes" / "layer_1", {})
    file = saes / "layer_1" / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    assert_refused(capsys, store, saes, "sae-lens cannot load it")


@pytest.mark.parametrize("name", ["gemma-scope-2b-pt-mlp", "gemma-scope-9b-pt-att", "gemma-scope-2b-pt-transcoders"])
def test_gemma_scopes_other_files_are_refused(store, tmp_path, capsys, name):
    where = tmp_path / name / "layer_0"
    where.mkdir(parents=True)
    threshold = {"threshold": np.zeros(FEATURES, np.float32)}
    np.savez(where / "params.npz", **weights() | threshold)
    assert_refused(capsys, store, tmp_path / name, f"params.npz: it is of {name} (")
    plain = tmp_path / "plain" / "layer_0"
    plain.mkdir(parents=True)
    np.savez(plain / "params.npz", **weights() | threshold | {"W_skip": np.eye(D, dtype=np.float32)})
    assert_refused(capsys, store, tmp_path / "plain", "it has W_skip too: no autoencoder of the residual stream")


@pytest.mark.parametrize(
    ("release", "sae_id", "message"),
    [
        ("gemma-scope-2b-pt-mlp-canonical", "layer_{layer}/width_16k/canonical", r"gemma-scope-2b-pt-mlp \(an MLP\)"),
        ("gemma-scope-2b-pt-att-canonical", "layer_{layer}/width_16k/canonical", r"gemma-scope-2b-pt-att \(attention"),
        ("llama_scope_lxm_8x", "l{layer}m_8x", r"llama_scope_lxm_8x \(an MLP\)"),
        ("gpt2-small-mlp-out-v5-32k", "blocks.{layer}.hook_mlp_out", r"blocks\.\d+\.hook_mlp_out \(an MLP\)"),
        ("gpt2-small-resid-mid-v5-32k", "blocks.{layer}.hook_resid_mid", "between attention and MLP"),
        ("mwhanna-qwen3-4b-transcoders", "layer_{layer}", "a transcoder"),
    ],
)
def test_releases_of_other_places_are_refused(release, sae_id, message):
    with pytest.raises(ActstoreError, match=message):
        source(release, sae_id)


def test_a_release_is_where_its_configuration_says():
    found = source("gemma-scope-2b-pt-res-canonical", "layer_{layer}/width_16k/canonical", "pre")
    with pytest.raises(ActstoreError, match=r"says residual point 5 \(post\), not 4: take --hook post"):
        found.load(4, 2304)


@pytest.mark.parametrize(
    "config",
    [
        [],
        {"metadata": 3},
        {"metadata": ""},
        {"architecture": 1.5},
        {"hook_name": ["blocks.0.hook_resid_post"]},
        {"activation_fn_kwargs": "k"},
        {"normalize_activations": {}},
        {"hook_layer": "two"},
        {"apply_b_dec_to_input": -1},
        {"k": 1.5},
    ],
    ids=repr,
)
def test_a_configuration_of_other_types_is_refused_by_name(config):
    with pytest.raises(ActstoreError, match=r"^folder: its configuration"):
        Configuration.of("folder", config)


@pytest.mark.parametrize(
    ("own", "said", "differs"),
    [
        ("digits-fusion", "digits-mapped", True),
        ("HuggingFaceTB/SmolLM2-135M", "smollm2-135m", False),
        ("google/gemma-2-2b-it", "gemma-2-2b", False),
        ("/models/mine/", "runs/other", True),
        ("digits-fusion", None, False),
        (None, "digits-mapped", False),
    ],
)
def test_autoencoders_of_another_model_are_called_so(tmp_path, capsys, own, said, differs):
    units = pl.DataFrame({"sample_id": [str(i) for i in range(N)]})
    card = {"n_layers": 2, "model": own}
    made = actstore.create(tmp_path / "own", plan=units, layers=range(2), d_model=D, dtype="float32", run=card)
    x = np.stack([vectors(layer) for layer in range(2)])
    rows = units.with_columns(role=pl.lit("image"))
    made.write(0, samples=units.with_columns(status=pl.lit("ok")), rows=rows, residual={"image": x})
    saes = folder(tmp_path / "saes" / "layer_1", place("blocks.1.hook_resid_pre"))
    config = json.loads((saes / "layer_1" / "cfg.json").read_text())
    config["metadata"]["model_name"] = said
    (saes / "layer_1" / "cfg.json").write_text(json.dumps(config))
    status, found, err = measured(capsys, tmp_path / "own", saes)
    assert (status, list(found)) == (0, [1])
    line = f"{saes}: trained on {said}, the store is of {own}: figures mean something only if"
    assert (line in err) is differs
    page = ["-o", str(tmp_path / "page.html"), "--no-browser"]
    assert run(["explore", str(tmp_path / "own"), "--saes", str(saes), *page]) == 0
    assert (line in capsys.readouterr().err) is differs


def test_autoencoders_that_ship_are_of_their_model():
    assert source("digits-mapped").models == ["digits-mapped"]
    assert source("openmoji-mapped").models == ["openmoji-mapped", "smollm2-135m"]
