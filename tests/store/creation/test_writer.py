import numpy as np
import polars as pl
import pytest

import actstore
from actstore import ActstoreError, PlanError, Writer
from actstore.errors import ActstoreWarning
from actstore.maintain import verify

N, LAYERS, WIDTH = 6, (0, 2, 5), 4
IDS = [f"s{i}" for i in range(N)]
SAMPLES = pl.DataFrame({"sample_id": IDS, "label": ["cat", "dog", "cat", "dog", "cat", "dog"]})
X = np.arange(1, 1 + len(LAYERS) * N * 3 * WIDTH, dtype=np.float32).reshape(len(LAYERS), N, 3, WIDTH) / 8


def fill(writer, chosen, role="last", x=X[:, :, -1], **said):
    """Add some samples at all layers, the last layer first, and be done."""
    for place in reversed(range(len(LAYERS))):
        writer.add(role, LAYERS[place], x[place][chosen], [IDS[i] for i in chosen], **said)
    writer.done()


def check_good(path):
    assert verify.run(verify.steps(path)) == []


def test_what_hooks_gave_comes_back_by_sample_whatever_the_order(tmp_path):
    path = tmp_path / "s"
    with Writer(path, SAMPLES, layers=LAYERS, run={"model": "mine"}, part_samples=4) as writer:
        fill(writer, [3, 0])
        assert actstore.open(path).commits == []
        fill(writer, [2, 1, 5])
        assert [commit.samples for commit in actstore.open(path).commits] == [4]
        assert writer.left == ["s4"]
        fill(writer, [4])
        assert writer.left == []
    store = actstore.open(path)
    rows = store.sql("from rows where label = 'dog' order by sample_id desc")
    assert rows["sample_id"].to_list() == ["s5", "s3", "s1"]
    assert (store.header.dtype, store.layers, store.run) == ("float32", LAYERS, {"model": "mine"})
    assert np.array_equal(store.residual(rows, layers=LAYERS), X[:, [5, 3, 1], -1].swapaxes(0, 1))
    check_good(path)


def test_layers_may_give_samples_in_different_orders(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=LAYERS) as writer:
        for place, layer in enumerate(LAYERS):
            order = np.roll(np.arange(N), place)
            writer.add("last", layer, X[place][order, 0], [IDS[i] for i in order])
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows order by sample_id")
    assert np.array_equal(store.residual(rows, layers=LAYERS), X[:, :, 0].swapaxes(0, 1))


def test_several_positions_without_padding_and_what_is_said_of_them(tmp_path):
    mask = np.arange(3) >= np.array([0, 1, 2, 0, 1, 2])[:, None]  # padded on the left
    at = np.cumsum(mask, axis=1) - 1
    tokens = np.arange(N * 3).reshape(N, 3)
    with Writer(tmp_path / "s", SAMPLES, layers=LAYERS) as writer:
        fill(writer, range(N), "text", X, positions=np.maximum(at, 0), mask=mask, token_ids=tokens, modality="text")
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows order by sample_id, k")
    assert rows["k"].to_list() == rows["position"].to_list() == at[mask].tolist()
    assert rows["token_id"].to_list() == tokens[mask].tolist()
    assert set(rows["modality"]) == {"text"}
    assert np.array_equal(store.residual(rows, 2), X[1][mask])


def test_what_is_added_is_copied(tmp_path):
    buffer = np.empty((N, WIDTH), np.float32)
    with Writer(tmp_path / "s", IDS, layers=LAYERS) as writer:
        for place, layer in enumerate(LAYERS):
            buffer[:] = X[place, :, 0]
            writer.add("last", layer, buffer, IDS)
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows order by sample_id")
    assert np.array_equal(store.residual(rows, layers=LAYERS), X[:, :, 0].swapaxes(0, 1))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_number_type_is_kept(tmp_path, dtype):
    with Writer(tmp_path / "s", IDS, layers=[0]) as writer:
        writer.add("last", 0, X[0, :, 0].astype(dtype), IDS)
    assert actstore.open(tmp_path / "s").header.dtype == dtype


def test_numbers_are_rounded_only_where_that_is_said(tmp_path):
    x = np.full((N, WIDTH), 1 / 3)
    with Writer(tmp_path / "s", IDS, layers=[0], dtype="bfloat16") as writer:
        writer.add("last", 0, x, IDS)
        writer.add("bits", 0, np.full((N, WIDTH), 0x3F80, np.uint16), IDS)
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows order by role, sample_id")
    assert np.array_equal(store.residual(rows, 0)[::N, 0], np.array([1, 0.333984375], np.float32))


def test_the_same_program_goes_on(tmp_path):
    path = tmp_path / "s"

    def run(most):
        with Writer(path, SAMPLES, layers=LAYERS, run={"seed": 0, "words": ("a", "b")}, part_samples=2) as writer:
            left = writer.left
            for i in [IDS.index(name) for name in left[:most]]:
                fill(writer, [i])
        return left

    assert run(4) == IDS
    state = actstore.open(path).state
    with Writer(path, SAMPLES, layers=LAYERS, run={"seed": 0, "words": ["a", "b"]}) as writer:
        fill(writer, [0, 1])  # in the store already: passed over
        with pytest.raises(PlanError, match="sample 's9' is not among the 6 given first"):
            writer.add("last", 0, X[0, :1, 0], ["s9"])
    assert actstore.open(path).state == state
    assert run(N) == ["s4", "s5"]
    assert run(N) == []
    assert actstore.open(path).sql("from rows").height == N
    check_good(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [0, 2]}, "layers: '0, 2, 5' there, '0, 2' here"),
        ({"run": {"seed": 1}}, "run, seed: None there, 1 here"),
        ({"dtype": "float16"}, "number type: 'float32' there, 'float16' here"),
        ({"samples": IDS}, "columns of the samples"),
        ({"samples": SAMPLES.with_columns(label=pl.lit("cat"))}, "of other samples than those given"),
        ({"samples": SAMPLES[:5]}, "of other samples than those given"),
    ],
)
def test_another_store_is_refused(tmp_path, change, message):
    with Writer(tmp_path / "s", SAMPLES, layers=LAYERS) as writer:
        fill(writer, range(N))
    options = {"samples": SAMPLES, "layers": LAYERS, **change}
    with pytest.raises(PlanError, match=message):
        Writer(tmp_path / "s", options.pop("samples"), **options)


def test_two_writers_share_the_work(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=LAYERS, part_samples=2) as one:
        fill(one, [0, 1])
        with Writer(tmp_path / "s", IDS, layers=LAYERS) as other:
            fill(other, [2, 3, 4, 5])
        fill(one, [2, 3])  # the other was first
    assert actstore.open(tmp_path / "s").sql("select count(*) from rows").item() == N
    assert Writer(tmp_path / "s", IDS, layers=LAYERS).left == []


def test_samples_that_fail_and_what_is_said_of_others(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=LAYERS) as writer:
        writer.fail("s0", "no image")
        for place, layer in enumerate(LAYERS):
            writer.add("last", layer, X[place, 1:, 0], IDS[1:])
        writer.done(pl.DataFrame({"sample_id": IDS[1:], "length": range(1, N), "next_token": ["x"] * (N - 1)}))
    found = actstore.open(tmp_path / "s").sql(
        "select sample_id, status, error, length, next_token from samples limit 2"
    )
    assert found.rows() == [("s0", "failed", "no image", None, None), ("s1", "ok", None, 1, "x")]


def test_conditions_are_planned_and_added_apart(tmp_path):
    plan = pl.DataFrame({"sample_id": ["a", "a"], "condition": ["none", "eoi-knockout"]})
    with Writer(tmp_path / "s", plan, layers=[0]) as writer:
        writer.add("last", 0, X[0, :1, 0], ["a"])
        writer.add("last", 0, X[0, 1:2, 0], ["a"], condition="eoi-knockout")
        with pytest.raises(PlanError, match="not planned under condition 'x', but eoi-knockout, none"):
            writer.add("last", 0, X[0, :1, 0], ["a"], condition="x")
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows where condition = 'eoi-knockout'")
    assert np.array_equal(store.residual(rows, 0), X[0, 1:2, 0])


def test_other_names_of_roles_are_said_once(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=[0]) as writer:
        with pytest.warns(ActstoreWarning, match="'hook_resid_post' is the role 'hook-resid-post' in the store"):
            writer.add("hook_resid_post", 0, X[0, :3, 0], IDS[:3])
        writer.add("hook_resid_post", 0, X[0, 3:, 0], IDS[3:])  # a warning would be an error here
        with pytest.raises(ActstoreError, match="would both be the role 'hook-resid-post'"):
            writer.add("hook.resid.post", 0, X[0, :3, 0], IDS[:3])
        with pytest.raises(ActstoreError, match="lower-case letters"):
            writer.add("mass", 0, X[0, :3, 0], IDS[:3])
    assert actstore.open(tmp_path / "s").roles == ["hook-resid-post"]


def add(writer, role, layer, vectors, samples, **said):
    writer.add(role, layer, vectors, samples, **said)
    writer.done()


@pytest.mark.parametrize(
    ("added", "message"),
    [
        ({"layer": 1}, "layer 1: not one of this store's layers, 0, 2, 5"),
        ({"vectors": X[0]}, "added at layers 0 and not at 2, 5: did each hook run"),
        ({"vectors": X[0, 0, 0]}, r"vectors \(samples, d\) or \(samples, positions, d\) are wanted, not \(4,\)"),
        ({"vectors": X[0, :5, 0]}, r"samples 6: s0, s1, s2, ... of vectors \(5, 4\): the first axis is the samples"),
        ({"vectors": X[0].swapaxes(0, 1)}, r"samples 6: .* of vectors \(3, 6, 4\)"),
        ({"vectors": X[0, :, 0].astype(np.float64)}, "float64, and a store holds .*dtype='float32'"),
        ({"vectors": X[0, :, 0].astype(np.uint16)}, "of bits of bfloat16 say so"),
        ({"vectors": X[0, :, 0].astype(np.int64)}, "numbers are of type int64.* an array of floats"),
        ({"vectors": "x"}, "are wanted, not"),
        ({"samples": ["s0"] * N}, "a sample is among 6: s0, s0, s0, ... twice"),
        ({"samples": [*IDS[:5], "s5a"]}, "sample 's5a' is not among the 6 given first; did you mean 's5'"),
        ({"positions": [1, 2]}, r"position has shape \(2,\), the vectors are \(6,\)"),
        ({"positions": [0, 1, 2, 3, 4, -1]}, "a position is below 0"),
        ({"modality": "Image"}, "modality 'Image' is not one of text, image, special"),
        ({"modality": ["text"] * 5 + ["audio"]}, "layer 0: modality 'audio' is not one of"),
        ({"positions": [0.5] * N}, "integers are wanted"),
        ({"token_ids": [2**40] * N}, "token_id"),
        ({"mask": [True]}, r"a mask \(6,\) of true and false is wanted"),
        ({"mask": [2] * N}, r"a mask \(6,\) of true and false is wanted"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, added, message):
    options = {"role": "last", "layer": 0, "vectors": X[0, :, 0], "samples": IDS, **added}
    writer = Writer(tmp_path / "s", IDS, layers=LAYERS)
    with pytest.raises(ActstoreError, match=message):
        add(writer, **options)
    assert not (tmp_path / "s").exists()


def test_a_layer_that_lacks_a_sample_names_it(tmp_path):
    writer = Writer(tmp_path / "s", IDS, layers=LAYERS)
    for place, layer in enumerate(LAYERS):
        chosen = [0, 1, 2, 4, 5] if layer == 2 else range(N)
        writer.add("last", layer, X[place][chosen, 0], [IDS[i] for i in chosen])
    with pytest.raises(ActstoreError, match="role 'last', sample 's3': its rows at layer 2 are not those at layer 0"):
        writer.done()


def test_a_hook_that_runs_twice_is_found_out(tmp_path):
    writer = Writer(tmp_path / "s", IDS, layers=LAYERS)
    for layer in (*LAYERS, *LAYERS):
        writer.add("last", layer, X[0, :, 0], IDS)
    with pytest.raises(ActstoreError, match="layer 0: sample 's0' was added twice; say `positions`"):
        writer.done()


def test_positions_of_several_calls_are_one_sequence(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=[0]) as writer:
        for step in range(3):
            writer.add("generated", 0, X[0, :, step], IDS, positions=[7 + step] * N)
    store = actstore.open(tmp_path / "s")
    rows = store.sql("from rows where sample_id = 's2' order by k")
    assert rows["position"].to_list() == [7, 8, 9]
    assert np.array_equal(store.residual(rows, 0), X[0, 2])


def test_other_types_and_widths_than_before_are_refused(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=[0]) as writer:
        writer.add("last", 0, X[0, :, 0], IDS)
        with pytest.raises(ActstoreError, match="numbers are of type float16, those of this store float32"):
            writer.add("eoi", 0, X[0, :, 0].astype(np.float16), IDS)
        with pytest.raises(ActstoreError, match="vectors of width 3, those of this store have 4"):
            writer.add("eoi", 0, X[0, :, 0, :3], IDS)


def test_what_is_not_finite_is_refused_by_name(tmp_path):
    bad = X[:, :, 0].copy()
    bad[1, 4, 2] = np.inf
    writer = Writer(tmp_path / "s", IDS, layers=LAYERS)
    with pytest.raises(ActstoreError, match="sample 's4', role 'last', layer 2: a value is not finite"):
        fill(writer, range(N), x=bad)
    assert actstore.open(tmp_path / "s").commits == []


def test_samples_that_others_wait_for_are_named(tmp_path):
    writer = Writer(tmp_path / "s", IDS, layers=LAYERS)
    fill(writer, range(4))
    with pytest.raises(ActstoreError, match="4 samples that are done were not kept: 2 others of their batches never"):
        writer.close()
    assert actstore.open(tmp_path / "s").commits == []


def interrupted(path):
    with Writer(path, IDS, layers=LAYERS, part_samples=3) as writer:
        fill(writer, range(4))
        raise KeyboardInterrupt


def test_an_interruption_keeps_what_was_committed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        interrupted(tmp_path / "s")
    assert Writer(tmp_path / "s", IDS, layers=LAYERS).left == IDS[3:]


def test_a_sample_that_is_done_takes_no_more(tmp_path):
    with Writer(tmp_path / "s", IDS, layers=LAYERS) as writer:
        fill(writer, [0])
        with pytest.raises(ActstoreError, match="sample 's0' is done; add all of it, then say `done`"):
            writer.add("eoi", 0, X[0, :1, 0], ["s0"])
        with pytest.raises(ActstoreError, match="vectors of it were added; it did not fail"):
            writer.fail("s0", "why")
        fill(writer, [1, 2, 3, 4, 5])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2, 1]}, "not ascending"),
        ({"samples": ["a", "a"]}, "in the plan twice"),
        ({"samples": []}, "the plan is empty"),
        ({"part_samples": 0}, "part_samples is at least 1, not 0"),
        ({"dtype": "float8"}, "dtype 'float8' is not one of"),
        ({"run": {"model": object()}}, "the run card is not JSON"),
    ],
)
def test_what_no_writer_begins_with(tmp_path, options, message):
    options = {"samples": IDS, "layers": LAYERS, **options}
    with pytest.raises(ActstoreError, match=message):
        Writer(tmp_path / "s", options.pop("samples"), **options)
