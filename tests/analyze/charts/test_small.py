"""Panels of many stores: in less room, with texts as large as they can be read."""

import json
import re
from itertools import pairwise

import altair as alt
import polars as pl
import pytest

from actstore_analyze.charts import charts, lines
from actstore_analyze.charts.small import HIGH, NAME_GAP, WIDE, small


def drawn(series=5, layers=31):
    """Lines that all end at nearly the same value, under a long grey line."""
    rows = [(f"role-{i}", layer, 0.5 + 0.001 * i) for i in range(series) for layer in range(layers)]
    table = pl.DataFrame(rows, schema=["series", "layer", "value"], orient="row").with_columns(
        role="series", low=pl.col("value") - 0.1, high=pl.col("value") + 0.1, text="series"
    )
    chart = lines.over_layers(table, y_title="overlap", ceiling=1.0, rules={"chance 0.100": 0.1})
    return chart.properties(title=charts.heading("a model", "n = 60 samples, euclidean distance; band: 95 % interval"))


def test_names_stand_apart_where_their_lines_end():
    spec = json.loads(small(charts.vega_lite(drawn())))
    alt.LayerChart.from_dict(spec)  # it is Vega-Lite as the schema has it
    assert (spec["width"], spec["height"]) == (WIDE, HIGH)
    names = [one for one in spec["layer"] if one["mark"]["type"] == "text"]
    places = sorted(one["encoding"]["y"]["value"] for one in names)
    assert len(places) == 6
    assert all(below - above >= NAME_GAP - 1e-6 for above, below in pairwise(places))
    assert max(places) <= HIGH
    assert abs(sum(places[:5]) / 5 - HIGH / 2) < 2.5 * NAME_GAP
    assert places[5] == pytest.approx(0.9 * HIGH)
    marks = [one for one in spec["layer"] if one["mark"]["type"] == "point" and "value" in one["encoding"].get("x", {})]
    assert [one["encoding"]["y"] for one in marks] == [one["encoding"]["y"] for one in names]
    assert {one["encoding"]["x"]["value"] for one in [*names, *marks]} == {WIDE + 14, WIDE + 23}
    ticks = {
        len(one["encoding"]["x"]["axis"]["values"]) for one in spec["layer"] if "axis" in one["encoding"].get("x", {})
    }
    assert ticks == {4}  # of 8 in a panel of the usual size


def test_a_small_panel_is_small_and_its_texts_are_not():
    usual, less = charts.svg(drawn(), "a"), charts.svg(drawn(), "a", smaller=small)
    wide = [int(re.search(r'<svg[^>]* width="(\d+)', one)[1]) for one in (usual, less)]
    assert wide[1] < 0.75 * wide[0]
    sizes = [float(size) for size in re.findall(r'font-size="([\d.]+)px"', less)]
    assert min(sizes) >= 10
    assert "95 % interval" in re.sub(r"<[^>]*>", " ", less).replace("  ", " ")


def test_panels_put_together_are_small_one_by_one_and_others_stay():
    other = alt.Chart(pl.DataFrame({"x": [1, 2]})).mark_bar().encode(x="x:Q").properties(width=120, height=40)
    spec = json.loads(small(charts.vega_lite(alt.vconcat(drawn(), drawn(), other))))
    assert [(one["width"], one["height"]) for one in spec["vconcat"]] == [(WIDE, HIGH), (WIDE, HIGH), (120, 40)]
