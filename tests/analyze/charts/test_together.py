"""Several stores in one table and one panel over relative depth: gap, cluster, patch and knockout."""

import json
import re

import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.charts import charts
from actstore_analyze.knockout.study import with_share
from actstore_analyze.knockout.together import together as knocked_together
from actstore_analyze.report.figures import TOGETHER
from actstore_analyze.report.page import write
from knockouts import make_store as make_knocked
from patching import make_store as make_patched
from two_sided import make as make_sided

MAKE = {"gap": make_sided, "cluster": make_sided, "patch": make_patched, "knockout": make_knocked}
FAST = {"cluster": ["--layers", "1,2"], "knockout": ["-k", "5"]}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Two stores for each measure."""
    root = tmp_path_factory.mktemp("together")
    for name, make in MAKE.items():
        for one in "ab":
            make(root / f"{name}-{one}")
    return {name: [str(root / f"{name}-{one}") for one in "ab"] for name in MAKE}


def asked(capsys, name, first, *others):
    """The rows of a table."""
    assert run([name, first, *FAST.get(name, []), *others]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("name", MAKE)
def test_the_table_is_that_of_each_store_one_below_the_other(name, stores, capsys):
    first, second = stores[name]
    each = [row for one in (first, second) for row in asked(capsys, name, one)]
    both = asked(capsys, name, first, "--together", second)
    assert len({row["store"] for row in both}) == 2
    assert [{key: row[key] for key in each[0]} for row in both] == each


@pytest.mark.parametrize("name", MAKE)
def test_the_panel_has_a_line_for_each_store_over_relative_depth(name, stores, tmp_path, capsys):
    first, second = stores[name]
    drawing = tmp_path / "f.svg"
    rows = asked(
        capsys, name, first, "--together", second, "--figure", str(drawing), "--reference", "chameleon-7b,emu3"
    )
    said = re.findall(r'aria-label="([^"]*)"', drawing.read_text())
    for store in {row["store"] for row in rows}:
        assert any(one.startswith(f"{store}") for one in said), said
    if name == "gap":
        one = next(row for row in rows if row["layer"] == 1)
        assert f"{one['store']}, depth 0.500: {one['median']:.3f}" in said
    published = [one for one in said if "(published, not measured here)" in one]
    assert any("Chameleon-7B" in one for one in published)
    assert any("Emu3" in one for one in published)


def test_what_is_left_is_a_share_of_the_model_as_it_is(stores, tmp_path, capsys):
    rows = asked(capsys, "knockout", *stores["knockout"][:1], "--together", stores["knockout"][1])
    for row in rows:
        before = next(
            one["value"] for one in rows
            if (one["store"], one["metric"], one["knockout"]) == (row["store"], row["metric"], "none")
        )  # fmt: skip
        assert row["share"] == pytest.approx(row["value"] / before)
    nothing = pl.DataFrame({"knockout": ["none", "eoi"], "metric": ["cider"] * 2, "value": [0.0, 0.0]})
    assert with_share(nothing)["share"].to_list() == [None, None]


def test_models_that_score_nothing_have_no_share_and_a_figure(tmp_path):
    row = {"window": 0, "blocks": 2, "metric": "cider", "value": 0.0, "low": 0.0, "high": 0.0, "spread": None}
    rows = [{**row, "knockout": "none"}, {**row, "knockout": "eoi-knockout", "window": 2}]
    table = pl.DataFrame(rows, schema_overrides={"spread": pl.Float64})
    assert "no share is left" in charts.svg(knocked_together({"a": table, "b": table}, title="t"), "x")
    halved = pl.concat([table, table[1:].with_columns(window=pl.lit(1, pl.Int64))])
    drawing = charts.svg(knocked_together({"a": halved, "b": halved}, title="t"), "x")
    assert "share of the model as it is" not in drawing
    assert "attention blocked in the last blocks" in drawing


@pytest.mark.slow
def test_a_report_of_two_stores_has_the_panel_too(stores, tmp_path, capsys):
    for one in stores["gap"]:
        asked(capsys, "gap", one)
    written = write([actstore.open(one) for one in stores["gap"]], tmp_path / "r.html", say=print)
    names = [path.name for path in written.files]
    assert "modality-gap-unmatched-pairs-together.png" in names
    assert pl.read_csv(written.folder / "modality-gap-unmatched-pairs-together.csv")["store"].n_unique() == 2
    assert TOGETHER in (tmp_path / "r.html").read_text()
    alone = write([actstore.open(stores["gap"][0])], tmp_path / "one.html", say=print)
    assert not any("together" in path.name for path in alone.files)


def test_several_references_need_several_stores(stores, tmp_path, capsys):
    words = ["--figure", str(tmp_path / "f.png"), "--reference", "emu3,chameleon-7b"]
    assert run(["gap", stores["gap"][0], *words]) == 2
    assert "--reference takes several models with --together" in capsys.readouterr().err
