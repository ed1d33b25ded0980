"""Stores of arrays: what names and axes say of them."""

import itertools
import os

import numpy as np
import pytest
import torch

import actstore
import foreign
from actstore.commands.main import run
from foreign import BLOCKS, SAMPLES, WIDTH, imported, points, vectors

AXES = ("layer", "sample", "position", "feature")
LAYERS = range(BLOCKS + 1)


def refused(capfd, *words):
    """What is said of an import that makes no store."""
    assert run(["import", *map(str, words)]) in (1, 2)
    return capfd.readouterr().err


@pytest.mark.parametrize("order", list(itertools.permutations(AXES))[::11])
def test_axes_in_any_order(tmp_path, order):
    x = points(3).numpy()
    np.save(tmp_path / "x.npy", x.transpose([AXES.index(axis) for axis in order]))
    options = ["--axes", ",".join(order), "--layers", "0..2", "--roles", "last,eoi,image"]
    store = imported(tmp_path / "x.npy", tmp_path / "s", "npy", *options)
    for layer, (place, role) in itertools.product(LAYERS, enumerate(["last", "eoi", "image"])):
        assert np.array_equal(vectors(store, role, layer), x[layer, :, place])


def test_a_writer_takes_tensors_of_torch_as_they_are(tmp_path):
    x = points(2, torch.bfloat16)
    given = x.clone().requires_grad_()
    with actstore.Writer(tmp_path / "s", [f"s{i}" for i in range(SAMPLES)], layers=LAYERS) as writer:
        for layer in LAYERS:
            at, mask = torch.arange(2), torch.ones(SAMPLES, 2)
            writer.add("text", layer, given[layer], writer.left, positions=at, token_ids=at, mask=mask)
            writer.add("last", layer, given[layer, :, 1], writer.left)
        with torch.no_grad():
            given.zero_()  # as models do that write into their tensors
    store = actstore.open(tmp_path / "s")
    assert store.header.dtype == "bfloat16"
    for layer in LAYERS:
        assert np.array_equal(vectors(store, "text", layer), x[layer].float().numpy().reshape(-1, WIDTH))
        assert np.array_equal(vectors(store, "last", layer), x[layer, :, 1].float().numpy())


def test_a_layer_alone(tmp_path):
    x = points(1).numpy()
    np.save(tmp_path / "x.npy", x[0, :, 0])
    store = imported(
        tmp_path / "x.npy", tmp_path / "s", "npy", "--axes", "sample,feature", "--layers", "12", "--roles", "last"
    )
    assert store.layers == (12,)
    assert np.array_equal(vectors(store, "last", 12), x[0, :, 0])


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.bfloat16, "safetensors"), (torch.float16, "pt"), (torch.bfloat16, "pt")]
)
def test_number_types_are_kept(tmp_path, dtype, kind):
    x = points(2, dtype)
    held = {f"resid_post.{block}": x[block + 1] for block in range(BLOCKS)}
    if kind == "pt":
        torch.save(held, tmp_path / "x.pt")
    else:
        from safetensors.torch import save_file

        save_file(held, tmp_path / "x.safetensors")
    options = ["--names", "resid_post.{block}", "--axes", "sample,position,feature"]
    store = imported(tmp_path / f"x.{kind}", tmp_path / "s", kind, *options)
    assert (store.header.dtype, store.layers) == (str(dtype).removeprefix("torch."), (1, 2))
    assert np.array_equal(vectors(store, "all", 1), x[1].float().numpy().reshape(-1, WIDTH))


def test_a_file_for_each_layer(tmp_path):
    x = points(1)
    for layer in LAYERS:
        (tmp_path / "acts").mkdir(exist_ok=True)
        torch.save(x[layer, :, 0], tmp_path / "acts" / f"layer_{layer}.pt")
    options = ["--names", "layer_{layer}", "--axes", "sample,feature", "--roles", "last"]
    store = imported(tmp_path / "acts", tmp_path / "s", "pt", *options)
    for layer in LAYERS:
        assert np.array_equal(vectors(store, "last", layer), x[layer, :, 0].numpy())


def test_a_file_for_each_sample_is_matched_by_its_name(tmp_path, capfd):
    (tmp_path / "acts").mkdir()
    x = points(2)
    for sample in range(SAMPLES):
        torch.save({f"layer_{layer}": x[layer, sample] for layer in LAYERS}, tmp_path / "acts" / f"s{sample}.pt")
    options = ["--names", "{sample}:layer_{layer}", "--axes", "position,feature"]
    (tmp_path / "labels.csv").write_text("label,sample_id\n" + "".join(f"l{i},s{i}\n" for i in (2, 0, 3, 1)))
    store = imported(tmp_path / "acts", tmp_path / "s", "pt", *options, "--samples", tmp_path / "labels.csv")
    assert store.sql("select distinct sample_id, label from rows order by all").rows() == [
        ("s0", "l0"),
        ("s1", "l1"),
        ("s2", "l2"),
        ("s3", "l3"),
    ]
    assert np.array_equal(vectors(store, "all", 2), x[2].reshape(-1, WIDTH).numpy())
    (tmp_path / "labels.csv").write_text("sample_id,label\ns0,a\ns1,a\ns2,a\ns4,a\n")
    said = refused(
        capfd, tmp_path / "acts", tmp_path / "t", "--as", "pt", *options, "--samples", tmp_path / "labels.csv"
    )
    assert "sample 's3' of the source is not in the table of samples (1 of 4 are not)" in said


def test_batches_are_taken_in_the_order_of_their_numbers(tmp_path, capfd):
    (tmp_path / "acts").mkdir()
    x = points(1, samples=11)
    for batch in range(11):
        held = {f"blocks.{block}.hook_resid_post": x[block + 1, batch : batch + 1] for block in range(BLOCKS)}
        torch.save(held, tmp_path / "acts" / f"batch_{batch}.pt")
    store = imported(tmp_path / "acts", tmp_path / "s", "transformer-lens")
    assert "in this order: batch_0, batch_1, batch_2, batch_3" in capfd.readouterr().err
    assert np.array_equal(vectors(store, "all", 1), x[1, :, 0].numpy())
    assert store.sql("select source from samples where sample_id = '10'").item() == "batch_10"


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_left_out(tmp_path, side):
    x, lengths = points(4), [4, 2, 3, 1]
    padded = x.clone()
    for sample, length in enumerate(lengths):
        padded[:, sample] = 0
        where = slice(4 - length, 4) if side == "left" else slice(0, length)
        padded[:, sample, where] = x[:, sample, :length]
    torch.save({f"blocks.{layer}.hook_resid_pre": padded[layer] for layer in LAYERS}, tmp_path / "x.pt")
    (tmp_path / "t.csv").write_text("sample_id,length\n" + "".join(f"s{i},{n}\n" for i, n in enumerate(lengths)))
    options = ["--samples", tmp_path / "t.csv", "--padding", side]
    store = imported(tmp_path / "x.pt", tmp_path / "s", "transformer-lens", *options)
    rows = store.sql("from rows order by sample_id, k")
    assert rows.select("k", "position").rows() == [(k, k) for length in lengths for k in range(length)]
    assert rows["length"].to_list() == [length for length in lengths for _ in range(length)]
    expected = torch.cat([x[1, sample, :length] for sample, length in enumerate(lengths)]).numpy()
    assert np.array_equal(store.residual(rows, 1), expected)
    (tmp_path / "rows.csv").write_text(
        "sample_id,role,position,word\ns0,first,0,a\ns1,eoi,1,b\ns0,eoi,3,c\ns3,first,0,d\n"
    )
    chosen = imported(
        tmp_path / "x.pt", tmp_path / "rows", "transformer-lens", *options, "--rows", tmp_path / "rows.csv"
    )
    assert np.array_equal(vectors(chosen, "eoi", 2), torch.stack([x[2, 0, 3], x[2, 1, 1]]).numpy())
    assert np.array_equal(vectors(chosen, "first", 0), torch.stack([x[0, 0, 0], x[0, 3, 0]]).numpy())
    assert chosen.sql("from samples").height == SAMPLES
    words = chosen.sql("select sample_id, role, word from rows order by word").rows()
    assert words == [("s0", "first", "a"), ("s1", "eoi", "b"), ("s0", "eoi", "c"), ("s3", "first", "d")]


@pytest.fixture
def lens(tmp_path):
    """A cache of TransformerLens, padded to three positions."""
    x = points(3)
    torch.save({f"blocks.{layer}.hook_resid_pre": x[layer] for layer in LAYERS}, tmp_path / "x.pt")
    return tmp_path / "x.pt"


@pytest.mark.parametrize(
    ("samples", "rows", "options", "message"),
    [
        ("label\na\nb\nc\n", None, [], "the table of samples has 3 rows, the source 4 samples"),
        ("sample_id\na\nb\nc\na\n", None, [], "sample 'a' (condition 'none') is in the plan twice"),
        ("condition\na\nb\nc\nd\n", None, [], "a column condition, which the store uses itself"),
        ("Label\na\nb\nc\nd\n", None, [], "column 'Label' of the plan: use lower-case"),
        ("length\n3\n3\n2\n3\n", None, [], "some samples are shorter than others: say where they are padded"),
        ("length\n3\n3\n4\n3\n", None, [], "sample '2' has length 4, its vectors 3 positions"),
        ("length\n3\n3\nx\n3\n", None, [], "a number of tokens in each row"),
        (None, None, ["--padding", "left"], "no table of samples says their length"),
        (None, "sample_id,role,position\n0,eoi,3\n", [], "role 'eoi': position 3 of sample '0', which has 3"),
        (None, "sample_id,role,position\n0,eoi,-1\n", [], "position -1 of sample '0'"),
        (None, "sample_id,role,position\n9,eoi,1\n", [], "sample '9' is not imported"),
        (None, "sample_id,role\n0,eoi\n", [], "'position' is missing"),
        (None, "sample_id,role,position\n0,eoi,1\n", ["--roles", "a,b,c"], "--rows chooses positions of whole samples"),
        (None, None, ["--layers", "0..3"], "no array is of layer 3, which --layers names"),
        (None, None, ["--layers", "3..x"], "is not such as 0..12, or 0,4,8"),
        (None, None, ["--axes", "sample,feature"], "say others, --axes sample,layer,feature"),
        (None, None, ["--axes", "sample,token,feature"], "'token' is not one of sample, layer, position, feature"),
        (None, None, ["--axes", "layer,position,feature"], "feature is one of them, and sample unless"),
        (None, None, ["--axes", "sample,layer,feature"], "which residual points is it of?"),
        (None, None, ["--roles", "a,b"], "3 positions of each sample: which are they?"),
        (None, None, ["--names", "h.{block}"], "no array has a name such as h.{block}; there are x.pt:blocks.0"),
        (None, None, ["--names", "h.{blok}"], "{blok} is not one of"),
        (None, None, ["--names", "*.{layer}.{block}"], "{layer} is a residual point, {block} one before it"),
        (None, None, ["--names", "blocks.*.hook_resid_pre", "--layers", "1"], "both are role 'all' at layer 1"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, lens, capfd, samples, rows, options, message):
    for option, text in (("--samples", samples), ("--rows", rows)):
        if text is not None:
            (tmp_path / f"{option[2:]}.csv").write_text(text)
            options = [*options, option, tmp_path / f"{option[2:]}.csv"]
    assert message in refused(capfd, lens, tmp_path / "s", "--as", "transformer-lens", *options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("held", "options", "message"),
    [
        ([torch.ones(2, 3)] * 3, ["--names", "{layer}", "--axes", "sample,feature"], "which are they? Say a role"),
        (
            {"hidden_states": [torch.ones(2, 3)] * 3},
            ["--names", "hidden_states.{layer}"],
            "the last is behind",
        ),
        ({"a": "text"}, [], "holds no tensors, but dict"),
        ({"layer_0": torch.ones(2, 3)}, [], "no array has a name such as blocks.{layer}.hook_resid_pre"),
        ({"x_0": torch.ones(2, 3), "x_1": torch.ones(3, 3)}, ["--names", "x_{layer}"], "[2, 3] samples, widths [3]"),
        ({"x_0": torch.ones(2, 3), "x_1": torch.ones(2, 4)}, ["--names", "x_{layer}"], "[2] samples, widths [3, 4]"),
        (
            {"x_0": torch.zeros(2, 3)},
            ["--names", "x_{layer}"],
            "all its numbers are 0 at every layer",
        ),
        ({"x_0": torch.full((2, 3), torch.nan)}, ["--names", "x_{layer}"], "a value is not finite in float32"),
        ({"x_0": torch.full((2, 3), torch.inf)}, ["--names", "x_{layer}"], "a value is not finite in float32"),
        ({"x_0": torch.ones(2, 3).double()}, ["--names", "x_{layer}"], "float64, and a store holds"),
        ({"x_0": torch.ones(2, 3).int()}, ["--names", "x_{layer}"], "int32, and a store holds"),
    ],
)
def test_tensors_that_no_store_holds(tmp_path, capfd, held, options, message):
    torch.save(held, tmp_path / "x.pt")
    axes = [] if "--axes" in options else ["--axes", "sample,feature", "--roles", "last"]
    said = refused(capfd, tmp_path / "x.pt", tmp_path / "s", "--as", "pt", *options, *axes)
    assert message in said
    if "finite" not in message:
        assert not (tmp_path / "s").exists()


def test_types_are_rounded_where_that_is_said(tmp_path):
    torch.save({"x_1": points(1)[1, :, 0].double()}, tmp_path / "x.pt")
    options = ["--names", "x_{layer}", "--axes", "sample,feature", "--roles", "last", "--dtype", "float32"]
    store = imported(tmp_path / "x.pt", tmp_path / "s", "pt", *options)
    assert np.array_equal(vectors(store, "last", 1), points(1)[1, :, 0].numpy())


@pytest.mark.parametrize("kind", ["pt", "safetensors", "npy"])
def test_files_that_are_cut_or_none(tmp_path, capfd, kind):
    from safetensors.torch import save_file

    path = tmp_path / f"x.{kind}"
    x = torch.ones(40, 30)
    if kind == "npy":
        np.save(path, x.numpy())
    else:
        {"pt": torch.save, "safetensors": save_file}[kind]({"x_0": x}, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not it"):
        path.write_bytes(content)
        said = refused(
            capfd, path, tmp_path / "s", "--as", kind, "--axes", "sample,feature", "--layers", "0", "--roles", "a"
        )
        assert f"{path}: cannot be read" in said
    path.unlink()
    assert "does not exist" in refused(capfd, path, tmp_path / "s", "--as", kind, "--axes", "sample,feature")
    os.mkfifo(path)
    assert f"{path} is a pipe" in refused(capfd, path, tmp_path / "s", "--as", kind, "--axes", "sample,feature")
    assert not (tmp_path / "s").exists()


def test_another_import_is_refused_and_a_part_gone_on_with(tmp_path, lens, capfd):
    store = imported(lens, tmp_path / "s", "transformer-lens")
    (store.path / "commits" / "b00000000.json").unlink()
    again = imported(lens, tmp_path / "s", "transformer-lens")
    assert np.array_equal(vectors(again, "all", 2), points(3)[2].reshape(-1, WIDTH).numpy())
    said = refused(capfd, lens, tmp_path / "s", "--as", "transformer-lens", "--layers", "0,1")
    assert "is another store (layers: '0..2' there, '0, 1' here)" in said
    held = torch.load(lens)
    held["blocks.0.hook_resid_pre"][0, 0, 0] = 7
    torch.save(held, lens)
    assert "is another store (run, imported:" in refused(capfd, lens, tmp_path / "s", "--as", "transformer-lens")
    assert actstore.open(tmp_path / "s").state == again.state


def test_options_that_a_source_says_itself(tmp_path, capfd):
    foreign.saev(tmp_path / "shards")
    said = refused(capfd, tmp_path / "shards", tmp_path / "s", "--as", "saev", "--axes", "sample,feature")
    assert "--axes is for arrays; saev says it itself." in said
