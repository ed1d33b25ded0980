"""As it ran, and as it was replayed: one table of what stores have both ways."""

import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.report import experiments
from actstore_analyze.report.both_ways import EXACT, compared
from actstore_analyze.study.subjects import subjects as subjects_of
from extracting import extract
from pages import Page

PAIRS = [["seven", "three"], ["one", "zero"]]
WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CONDITIONS = (
    f"{{name='eoi-patch', pairs={PAIRS}}}",
    f"{{name='attention', patch='eoi', point='attention-input', pairs={PAIRS}}}",
    "{name='before-knockout', keys='eoi', mode='pre'}",
    "{name='image-knockout', windows=4}",
)

pytestmark = pytest.mark.slow  # a model runs under every condition, and is replayed under each


def silent(_):
    pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Patches and knockouts that ran, in one store; the vectors of the same samples, in another, and its replays."""
    folder = tmp_path_factory.mktemp("both")
    small = ("samples.split=test", "samples.limit=60", "capture.part_samples=64", "capture.batch_size=16")
    small += ("model.dtype=float32", f"capture.answers={WORDS}")
    ran, kept = folder / "ran", folder / "kept"
    extract(ran, *small, "capture.roles=['eoi', 'last']", f"conditions=[{', '.join(CONDITIONS)}]", name="digits-gated")
    extract(kept, *small, "capture.roles=['all', 'last']", name="digits-gated")
    pairs = ("--pairs", "seven:three,one:zero")
    for arguments in [
        ("patch", ran),
        ("patch", kept, *pairs),
        ("patch", kept, *pairs, "--point", "attention-input"),
        ("patch", kept, "--pairs", "seven:three"),
        ("patch", kept, *pairs, "--limit", "3"),
        ("knockout", ran, "-k", "5"),
        ("knockout", kept, "--replay", "eoi", "--mode", "pre", "-k", "5"),
        ("knockout", kept, "--replay", "image", "--windows", "4", "-k", "5"),
        ("knockout", kept, "--replay", "eoi", "-k", "5"),
    ]:
        assert run([*map(str, arguments), "--format", "csv"]) == 0
    return folder


def both(folder):
    subjects = subjects_of([actstore.open(folder / name) for name in ("ran", "kept")])
    return compared(experiments.others(subjects, say=silent))


def test_the_same_pairs_and_knockouts_are_compared_and_no_others(folder):
    table = both(folder)
    assert sorted(table["intervention"]) == [
        "attention (attention-input)",
        "before-knockout",
        "eoi-patch (residual)",
        "image-knockout",
        "image-knockout, last 4 blocks",
    ]
    assert table["largest"].max() <= EXACT
    assert all(verdict.startswith("equal within 2e-05") for verdict in table["verdict"])
    patch = table.row(by_predicate=pl.col("intervention") == "eoi-patch (residual)", named=True)
    assert patch["verdict"].endswith("the patch carries what the source says, both ways")
    assert (patch["values"], patch["dtype"]) == (5 * 7, "float32")


def test_the_report_says_it(folder, capsys):
    page = folder / "r.html"
    assert run(["report", str(folder / "ran"), str(folder / "kept"), "-o", str(page)]) == 0
    assert "eoi-patch (residual) of digits-gated (ran), as it ran vs replayed: largest difference" in (
        capsys.readouterr().err
    )
    assert "As it ran, and replayed" in Page(page.read_text()).headings
    assert pl.read_csv(folder / "r_files" / "as-it-ran-and-replayed.csv").height == 5


def test_a_difference_is_not_called_equal(folder, monkeypatch):
    (ran,) = [one for one in actstore.open(folder / "ran").results() if one.measure == "patched"]
    table = ran.table()
    off = table.with_columns(similarity=pl.when(layer=3).then(pl.col("similarity") + 0.25).otherwise("similarity"))
    off = off.with_columns(accuracy_difference_low=pl.lit(-0.1))
    right = type(ran).table
    monkeypatch.setattr(type(ran), "table", lambda one: off if one.measure == "patched" else right(one))
    found = both(folder).filter(pl.col("intervention") == "eoi-patch (residual)").row(0, named=True)
    assert found["largest"] > 0.249
    assert found["verdict"] == "not equal within 2e-05; the two ways disagree on what the patch does"
