"""--minus-store STORE: differences between two stores, over the samples of both, with paired intervals."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

import actstore
import two_sided
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.gap import cosine_gap
from actstore_analyze.overlap.measure import label_overlap
from actstore_analyze.overlap.minus import OverlapMinus
from actstore_analyze.probe.measure import asked_held_out
from actstore_analyze.study.intervals import paired
from labelled import DIGITS, LAYERS, D, N, make_store, overlaps_left, sample_ids, vectors
from two_sided import command

CHOSEN = np.random.default_rng(3).permutation(N)[:50]  # of the samples, those that the other store has


def there(layer):
    """(50, D): eoi of the other store, in the order of CHOSEN: the same with noise."""
    noise = np.random.default_rng([9, layer]).standard_normal((N, D))
    return (vectors("eoi", layer)[:, 0] + 0.8 * noise)[CHOSEN]


def other(path, ids=None):
    """A store of role eoi, of other samples in another order, without layer 0."""
    ids = [sample_ids()[i] for i in CHOSEN] if ids is None else ids
    sides = ["train" if i % 2 else "test" for i in CHOSEN]
    plan = pl.DataFrame({"sample_id": ids, "label": [DIGITS[i % 3] for i in CHOSEN], "split": sides})
    made = actstore.create(path, plan=plan, layers=(1, 2), d_model=D, dtype="float32", run={"n_layers": 4})
    residual = {"eoi": np.stack([there(layer) for layer in (1, 2)]).astype(np.float32)}
    made.write(
        0, samples=plan.select("sample_id"), rows=plan.select("sample_id", role=pl.lit("eoi")), residual=residual
    )
    return path


@pytest.fixture
def stores(tmp_path):
    return make_store(tmp_path / "here"), other(tmp_path / "there")


def both(layer):
    """Vectors of the samples of both here and there, in the order of their names, and their labels."""
    order = np.argsort(CHOSEN)
    own = vectors("eoi", layer)[CHOSEN[order], 0].astype(np.float32)
    return own, there(layer)[order].astype(np.float32), CHOSEN[order] % 3


def test_overlaps_are_among_the_samples_of_both_and_each_is_left_out_of_both(stores, tmp_path, capsys):
    asked = ("overlap", stores[0], "--roles", "eoi", "-k", 4, "--minus-store", stores[1])
    status, rows, err = command(capsys, *asked, "--figure", tmp_path / "f.svg")
    assert status == 0, err
    assert "eoi none 1: 10 of 60 samples are not in both; left out" in err
    assert [row["layer"] for row in rows] == [1, 2]  # what both have
    for row in rows:
        *sides, y = both(row["layer"])
        values = [label_overlap(x, y, 4) for x in sides]
        here, there = (overlaps_left(x, y, 4) for x in sides)
        left = here.without - there.without
        assert (row["value"], row["minus"]) == pytest.approx(values)
        of_pairs = np.square(here.pairs - there.pairs).mean()
        change, error = values[0] - values[1], np.sqrt(49 / 50 * np.square(left - np.mean(left)).sum() - of_pairs)
        ends = change - 1.959964 * error, change + 1.959964 * error
        assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx((change, *ends))
        assert (row["metric"], row["minus_store"], row["n"]) == ("overlap", "there", 50)
    drawing = (tmp_path / "f.svg").read_text()
    assert "less that of there, n = 50 samples of both; band: 95 % interval" in drawing
    assert f"eoi, layer 2: {round(rows[1]['difference'], 4)} (" in drawing
    _, bare, _ = command(capsys, *asked, "--no-interval")
    assert {row["difference_low"] for row in bare} == {None}
    assert [row["difference"] for row in bare] == [row["difference"] for row in rows]


def test_the_same_store_differs_by_nothing(stores, capsys):
    _, rows, _ = command(capsys, "overlap", stores[0], "--roles", "eoi,image", "-k", 4, "--minus-store", stores[0])
    assert {row["role"] for row in rows} == {"eoi", "image"}
    assert {row["layer"] for row in rows} == set(LAYERS)
    values = [row[name] for row in rows for name in ("difference", "difference_low", "difference_high")]
    known = [value for value in values if value is not None and not np.isnan(value)]
    assert len(known) >= 15
    assert set(known) == {0.0}


def test_probes_are_of_the_samples_of_both(stores, capsys):
    _, rows, _ = command(capsys, "probe", stores[0], "--roles", "eoi", "--minus-store", stores[1])
    train = np.sort(CHOSEN) % 2 == 1
    for row in rows:
        *sides, y = both(row["layer"])
        right = [asked_held_out(x, y, train).right.astype(float) for x in sides]
        assert row["difference"] == pytest.approx((right[0] - right[1]).mean())
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(paired(right[0] - right[1]))
        assert (row["metric"], row["n"]) == ("accuracy", (~train).sum())
    _, folded, _ = command(capsys, "probe", stores[0], "--roles", "eoi", "--folds", 3, "--minus-store", stores[1])
    assert {row["n"] for row in folded} == {50}


def test_gaps_are_of_medians(tmp_path, capsys):
    here = two_sided.make(tmp_path / "here")
    noise = np.random.default_rng(0)
    turned = {
        role: np.stack([np.concatenate([two_sided.vectors(role, order, layer) for order in two_sided.ORDERS])
                        for layer in two_sided.LAYERS]) + noise.standard_normal((3, 160, 6)).astype(np.float32)
        for role in two_sided.ROLES
    }  # fmt: skip
    there = two_sided.make(tmp_path / "there", residual=turned)
    status, rows, err = command(capsys, "gap", here, "--layers", "1,2", "--minus-store", there)
    assert status == 0, err
    for row in rows:
        layer, n = row["layer"], two_sided.N
        own = two_sided.both(layer)
        theirs = turned["random-text"][layer, :n], turned["random-image"][layer, n:]
        medians = [cosine_gap(*side, pairs="unmatched").median for side in (own, theirs)]
        assert (row["value"], row["minus"]) == pytest.approx(medians, abs=1e-6)
        left = [
            np.subtract(*(cosine_gap(*(np.delete(one, i, axis=0) for one in side), pairs="unmatched").median
                          for side in (own, theirs)))
            for i in range(n)
        ]  # fmt: skip
        error = np.sqrt((n - 1) / n * np.square(left - np.mean(left)).sum())
        assert (row["difference_high"] - row["difference_low"]) / 2 / 1.959964 == pytest.approx(error, rel=0.25)
        assert (row["metric"], row["n"]) == ("median", n)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--unique"], "--minus-store is of all samples alike; leave out --unique"),
        (["--weights", "class"], "leave out --weights class"),
        (["--with-layer", "1"], "--minus-store is of label overlaps; leave it out with --with-..."),
        (["--roles", "image"], "no role 'image'"),
        (["--layers", "0"], "layer 0 is not in this store"),
        (["-k", "50"], "k = 50, but role 'eoi' has 50 samples"),
    ],
)
def test_bad_input_is_one_clear_line(stores, capsys, options, message):
    status, rows, err = command(
        capsys, "overlap", stores[0], "--roles", "eoi", "-k", 4, "--minus-store", stores[1], *options
    )
    assert status in (1, 2)
    assert rows == []
    assert message in err
    assert "Traceback" not in err


def test_samples_of_no_store_in_common(stores, tmp_path, capsys):
    strange = other(tmp_path / "strange", [f"x{i}" for i in range(50)])
    status, _, err = command(capsys, "overlap", stores[0], "--roles", "eoi", "-k", 4, "--minus-store", strange)
    assert status == 1
    assert "no sample in common with" in err


def test_it_is_recalled_until_the_other_store_changes_and_stands_in_a_report(stores, tmp_path, capsys):
    here, there = stores
    asked = ("overlap", here, "--roles", "eoi", "-k", 4, "--minus-store", there)
    _, first, err = command(capsys, *asked)
    assert "saved as" in err
    assert "recalled from" in command(capsys, *asked)[2]
    found = actstore.open(here).measure.overlap(roles=["eoi"], k=4, minus_store=there)
    assert found.table["difference"].to_list() == [row["difference"] for row in first]
    assert found.command.endswith(f"--minus-store {there}")
    call = found.call
    assert isinstance(call, OverlapMinus)
    assert OverlapMinus.again(call.parameters).parameters == call.parameters
    assert run(["report", str(here), "-o", str(tmp_path / "r.html")]) == 0
    page = Path(tmp_path / "r.html").read_text("utf-8")
    assert "less that of there" in page
    assert "Differences are from the same of" in page


def test_what_an_earlier_version_called_minus_is_refused(stores):
    parameters = actstore.open(stores[0]).measure.overlap(roles=["eoi"], k=4, minus_store=stores[1]).call.parameters
    before = {"minus" if name == "minus_store" else name: value for name, value in parameters.items()}
    with pytest.raises(ActstoreError, match=r"parameters of another version \(no minus_store\)"):
        OverlapMinus.again(before)


def test_several_processes_give_what_one_gives(stores, capsys):
    asked = ("overlap", stores[0], "--roles", "eoi", "-k", 4, "--minus-store", stores[1])
    _, alone, _ = command(capsys, *asked)
    assert command(capsys, *asked, "--force", "--jobs", 2)[1] == alone
