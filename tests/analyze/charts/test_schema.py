"""Charts fit Vega-Lite's schema: the first that a file of tests draws are validated; what does not fit is an error."""

import altair as alt
import polars as pl
import pytest
from altair.utils.schemapi import SchemaValidationError

from actstore_analyze.charts import charts


def odd():
    chart = alt.Chart(pl.DataFrame({"x": [1]})).mark_point().encode(x="x:Q")
    chart.mark = {"type": "point", "shape": 7}
    return alt.layer(chart)


def test_a_figure_that_does_not_fit(tmp_path):
    with pytest.raises(SchemaValidationError):
        charts.draw(odd(), tmp_path / "f.svg")
    with pytest.raises(SchemaValidationError):
        charts.vega_lite(odd())
    with pytest.raises(SchemaValidationError):
        charts.vega_lite(odd())
    assert '"shape": 7' in charts.vega_lite(odd())
