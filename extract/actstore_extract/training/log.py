"""The log of a training: a row for each step, as Parquet and as a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import polars as pl

from actstore.errors import visible
from actstore.storage import local

if TYPE_CHECKING:
    import altair as alt

__all__ = ["Row", "draw", "read_log", "write_log"]

FILE, FIGURE = "log.parquet", "log.png"
SMOOTH = 50  # how many points of a long training are drawn as the line of means


class Row(NamedTuple):
    """One step: its mean loss before it was made, learning rate, norm of the gradient, how many examples counted.

    `cut` were longer than the limit; `empty` had no answer left after that; `bad` could not be used.
    """

    step: int
    epoch: int
    loss: float | None
    learning_rate: float
    gradient_norm: float | None
    examples: int
    cut: int
    empty: int
    bad: int
    seconds: float


_SCHEMA = pl.Schema(
    {
        "step": pl.Int64(),
        "epoch": pl.Int64(),
        "loss": pl.Float64(),
        "learning_rate": pl.Float64(),
        "gradient_norm": pl.Float64(),
        "examples": pl.Int64(),
        "cut": pl.Int64(),
        "empty": pl.Int64(),
        "bad": pl.Int64(),
        "seconds": pl.Float64(),
    }
)


def write_log(folder: Path, rows: list[Row]) -> pl.DataFrame:
    """Keep the log, in the place of what was there; returns it as a table."""
    table = pl.DataFrame(rows, schema=_SCHEMA, orient="row")
    draft = local.draft_of(folder / FILE)
    with draft.open("wb") as file:
        table.write_parquet(file)
    local.replace(folder / FILE, draft)
    return table


def read_log(folder: Path) -> list[Row] | None:
    """The rows that are kept there; None where they are missing or damaged."""
    try:
        with (folder / FILE).open("rb") as file:
            return [Row(*row) for row in pl.read_parquet(file).select(list(_SCHEMA)).iter_rows()]
    except (OSError, pl.exceptions.PolarsError):
        return None


def draw(folder: Path, table: pl.DataFrame, title: str) -> Path | None:
    """Loss and learning rate over steps as a picture; None where altair is not installed."""
    try:
        import altair as alt
    except ModuleNotFoundError:
        return None
    kept = _smoothed(table)
    chart = alt.vconcat(_loss(kept, title), _rate(table), spacing=14).configure_view(strokeOpacity=0)
    chart.save(folder / FIGURE, scale_factor=2)
    return folder / FIGURE


def _smoothed(table: pl.DataFrame) -> pl.DataFrame:
    """The loss and its mean over neighbouring steps, as many as leave `SMOOTH` independent means."""
    window = max(1, table.height // SMOOTH)
    mean = pl.col("loss").rolling_mean(window, min_samples=1, center=True)
    return table.select("step", pl.col("loss").fill_nan(None), mean.alias("mean"))


def _loss(table: pl.DataFrame, title: str) -> "alt.LayerChart":
    import altair as alt

    x = alt.X("step:Q", title=None, axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("loss:Q", title="loss (nats a token)", scale=alt.Scale(zero=False))
    dots = alt.Chart(table).mark_circle(size=8, color="#999999", opacity=0.5).encode(x=x, y=y)
    line = alt.Chart(table).mark_line(color="#0072B2", strokeWidth=2).encode(x=x, y=alt.Y("mean:Q"))
    layers = alt.LayerChart(layer=[dots, line])
    chart: alt.LayerChart = layers.properties(width=420, height=220, title=visible(title))
    return chart


def _rate(table: pl.DataFrame) -> "alt.Chart":
    import altair as alt

    x = alt.X("step:Q", title="step", axis=alt.Axis(tickMinStep=1, grid=False))
    y = alt.Y("learning_rate:Q", title="learning rate", axis=alt.Axis(format=".2~e", tickCount=3))
    chart: alt.Chart = alt.Chart(table).mark_line(color="#222222").encode(x=x, y=y).properties(width=420, height=70)
    return chart
