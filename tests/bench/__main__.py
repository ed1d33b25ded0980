"""Every benchmark, one table: python tests/bench [--quick] [--out FOLDER] [PROGRAM...]

Each program runs in a process of its own, so that its memory is its own, one after the other. FOLDER gets bench.json
(the rows, and the versions, cores, commit and commands that made them) and bench.png. A program that fails is said,
left out, and ends all with status 1; rivals that are not installed are, too: `make bench` installs them.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import altair as alt
import polars as pl
from measuring import COLUMNS, machine, show

from actstore.commands.table import render

HERE = Path(__file__).parent
ARROWS = {"more": "→", "less": "←"}  # which way is better
PROGRAMS = ("startup", "store", "index", "measures", "extraction", "rivals", "dadapy", "replay")


def ran(program: str, quick: bool, out: Path) -> tuple[pl.DataFrame, str]:
    """The rows of a program, none where it failed, and the command."""
    command = [sys.executable, str(HERE / f"{program}.py"), *(["--quick"] if quick else []), "--json", str(out)]
    print(f"== {program}", flush=True)
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    shown = " ".join(["python", f"tests/bench/{program}.py", *(["--quick"] if quick else [])])
    if done.returncode or not out.exists():
        print(f"{program} failed:\n{done.stderr[-2000:]}", flush=True)
        return pl.DataFrame(schema=COLUMNS), shown
    return pl.read_json(out, schema=COLUMNS), shown


def drawn(table: pl.DataFrame) -> alt.VConcatChart:
    """Every ratio on one logarithmic axis, a tick for each goal."""
    chosen = table.filter(pl.col("ratio").is_not_null()).with_columns(
        label=pl.format("{} ({}) : {} {}", "what", "unit", "beside", pl.col("better").replace_strict(ARROWS)),
        bound=pl.col("goal").str.extract(r"([0-9.]+)$").cast(pl.Float64),
        state=pl.col("met").replace_strict({True: "goal met", False: "goal not met"}, default="no goal"),
    )
    charts = [_of_program(rows, rows["program"][0]) for rows in chosen.partition_by("program", maintain_order=True)]
    return alt.vconcat(*charts)


def _of_program(table: pl.DataFrame, name: str) -> alt.LayerChart:
    axis = alt.X("ratio:Q", scale=alt.Scale(type="log"), title="ratio; the arrow says which way is better")
    rows = alt.Y("label:N", sort=None, title=None)
    base = alt.Chart(table, title=name, width=420)
    states = ["goal met", "goal not met", "no goal"]
    points = base.mark_point(size=70, filled=True).encode(
        axis,
        rows,
        color=alt.Color("state:N", scale=alt.Scale(domain=states, range=["#1b7837", "#b2182b", "#999999"]), title=None),
        shape=alt.Shape("state:N", scale=alt.Scale(domain=states, range=["circle", "cross", "circle"]), title=None),
    )
    bounded = base.transform_filter("isValid(datum.bound)")
    bounds = bounded.mark_tick(thickness=2, color="black").encode(x="bound:Q", y=rows)
    one = alt.Chart(pl.DataFrame({"ratio": [1.0]})).mark_rule(strokeDash=[3, 3], color="#999").encode(x="ratio:Q")
    return alt.layer(one, points, bounds)


def scaling(table: pl.DataFrame) -> alt.VConcatChart:
    """CPU seconds over points and over width, a row for each measure, ours beside the others."""
    sized = table.filter(pl.col("points").is_not_null()).with_columns(
        measure=pl.col("what").str.replace(r", \d+ x \d+$", "")
    )
    theirs = sized.select("measure", "points", "width", series="beside", seconds="baseline")
    mine = sized.select("measure", "points", "width", series=pl.lit("actstore"), seconds="ours")
    lines = pl.concat([mine, theirs]).unique(
        ["measure", "points", "width", "series"], keep="first", maintain_order=True
    )
    rows = []
    for one in lines.partition_by("measure", maintain_order=True):
        charts = [_over(_at_one(one, other), axis, other) for axis, other in (("points", "width"), ("width", "points"))]
        rows.append(alt.hconcat(*charts, title=one["measure"][0]))
    return alt.vconcat(*rows)


def _at_one(lines: pl.DataFrame, fixed: str) -> pl.DataFrame:
    """The lines at the value of `fixed` at which most was measured."""
    return lines.filter(pl.col(fixed) == lines[fixed].mode().max())


def _over(lines: pl.DataFrame, axis: str, other: str) -> alt.Chart:
    log = alt.Scale(type="log", nice=False)
    legend = alt.Scale(scheme="dark2")
    return (
        alt.Chart(lines, title=f"{other} {lines[other][0]:,}", width=300, height=160)
        .mark_line(point=True)
        .encode(
            alt.X(axis, scale=log, axis=alt.Axis(values=lines[axis].unique().to_list())),
            alt.Y("seconds", scale=log, title="CPU s"),
            alt.Color("series:N", title=None, scale=legend),
            alt.StrokeDash("series:N", title=None),
        )
    )


def met(table: pl.DataFrame) -> str:
    """Print the rows that have a goal, with what was found; how many reached it."""
    goals = table.filter(pl.col("met").is_not_null())
    said = {True: "met", False: "not met"}
    render(
        goals.select(
            "program", "what", "beside", "goal", found=pl.col("ratio").round_sig_figs(3),
            met=pl.col("met").replace_strict(said, return_dtype=pl.String),
        ),
        "table",
    )  # fmt: skip
    return f"{goals['met'].sum()} of {goals.height} goals met"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    there = [name for name in PROGRAMS if (HERE / f"{name}.py").exists()]
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(there))
    parser.add_argument("--quick", action="store_true", help="smaller sizes: less than two minutes for all")
    parser.add_argument("--out", type=Path, default=Path("bench"))
    asked = parser.parse_args()
    if strange := set(asked.programs) - set(there):
        parser.error(f"no program {', '.join(sorted(strange))}; there are {', '.join(there)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    found, commands, started = [], [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.programs or there:
            rows, command = ran(name, asked.quick, Path(folder) / f"{name}.json")
            found.append(rows)
            commands.append(command)
    table = pl.concat(found)
    show(table)
    facts = {**machine(), "commands": commands, "seconds": round(time.monotonic() - started)}
    (asked.out / "bench.json").write_text(json.dumps({**facts, "rows": table.to_dicts()}, indent=1))
    charts = [drawn(table)] if table["ratio"].is_not_null().any() else []
    charts += [scaling(table)] if table["points"].is_not_null().any() else []
    figure = alt.hconcat(*charts).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    styled = figure.configure_axis(labelLimit=620).configure_view(stroke="#ddd")
    styled.save(asked.out / "bench.png", scale_factor=2)
    print(f"{met(table)}; {facts['seconds']} s; {asked.out}/bench.json, {asked.out}/bench.png")
    if failed := [name for name, rows in zip(asked.programs or there, found, strict=True) if not rows.height]:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
