"""A report over results of other versions: each is left out with its reason, and the rest of the page stands."""

import altair as alt
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore.format import results
from actstore_analyze.charts import charts
from labelled import make_store
from pages import Page

OVERLAP = ["overlap", "--roles", "eoi", "-k", "5"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = make_store(tmp_path_factory.mktemp("stores") / "s")
    for name, *rest in (OVERLAP, ["outliers"], ["cka"]):
        assert run([name, str(path), *rest]) == 0
    return path


@pytest.fixture
def again(path, monkeypatch):
    """Saves a result again under changed parameters or with a changed table; it goes when the test ends."""
    store, made = actstore.open(path), []
    monkeypatch.setattr(results, "_versions", lambda: {"actstore": "9.9"})

    def save(measure, table=lambda frame: frame, **parameters):
        one = next(one for one in store.results() if one.measure == measure)
        changed = {name: value for name, value in {**one.parameters, **parameters}.items() if value != "absent"}
        made.append(store.save_result(measure, table(one.table()), {**changed, "sql": "from rows where true"}))

    yield save
    for one in made:
        one.path.unlink()


def reported(path, tmp_path, capfd):
    assert run(["report", str(path), "-o", str(tmp_path / "r.html")]) == 0
    return capfd.readouterr().err, Page((tmp_path / "r.html").read_text())


def emptied(frame):
    return frame.clear()


def without(name):
    return lambda frame: frame.drop(name)


def filled(name, value):
    return lambda frame: frame.with_columns(pl.lit(value).alias(name))


def times(value):
    return lambda frame: frame.with_columns(pl.col(pl.Float64).fill_null(1.0) * 0 + value)


STRANGE = {
    "unknown parameter": ("overlap", {"sharpness": 3}, None, "parameters that this version does not know: sharpness"),
    "missing parameter": ("outliers", {"layers": "absent"}, None, "missing required field `layers`"),
    "parameter of another type": ("overlap", {"k": "five"}, None, "Expected `int`, got `str`"),
    "no rows": ("overlap", {}, emptied, "it has no rows"),
    "no rows of another measure": ("cka", {}, emptied, "it has no rows"),
    "a column less": ("cka", {}, without("layer"), "layer"),
    "a column of another type": ("outliers", {}, filled("layer", "deep"), None),
    "infinity": ("overlap", {}, filled("overlap", float("inf")), None),
    "nothing but NaN": (
        "cka",
        {},
        lambda frame: frame.with_columns(pl.col(pl.Float64).fill_null(0) * float("nan")),
        None,
    ),
    "near the largest float": ("overlap", {}, filled("overlap", 1.7e308), None),
    "minus the largest float": (
        "outliers",
        {},
        lambda frame: frame.with_columns(pl.col(pl.Float64) * 0 - 1.7e308),
        None,
    ),
}


QUICK = ("unknown parameter", "no rows of another measure", "minus the largest float")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in STRANGE]
)
def test_it_is_left_out_and_the_rest_stands(path, again, tmp_path, capfd, name):
    measure, parameters, table, reason = STRANGE[name]
    again(measure, table or (lambda frame: frame), **parameters)
    said, page = reported(path, tmp_path, capfd)
    assert "Traceback" not in said
    headings = " ".join(page.headings)
    assert "Label overlap with “label”, k = 5" in headings
    assert "CKA" in page.words
    if reason is not None:
        assert f"results/{measure}-" in said
        assert "left out, this version cannot show it" in said
        assert reason in said
        assert "Left out" in headings
        assert reason in page.words


def test_more_rows_than_altair_takes_are_drawn():
    rows = pl.DataFrame({"x": range(6000)})
    assert '"x":5999' in "".join(charts.vega_lite(alt.Chart(rows).mark_point().encode(x="x:Q")).split())


def test_members_of_the_run_card_of_any_type(tmp_path, capfd):
    card = {
        "model": 7, "versions": ["a"], "recipe": [1], "conditions": "none", "blocked": {"a": 1}, "n_layers": 4.5,
        "recipe_name": {"x": [1]}, "weights_sha256": 3.5, "not_found": 1, "decoder_sha256": None, "seed": [1],
    }  # fmt: skip
    path = make_store(tmp_path / "odd", **card)
    for command in (["info"], ["info", "--format", "table"], ["query", "from run"], OVERLAP, ["report"], ["results"]):
        output = tmp_path / ("o.html" if command == ["report"] else "o.json")
        status = run([command[0], str(path), *command[1:], "-o", str(output)])
        assert status in (0, 1), command
        assert "Traceback" not in capfd.readouterr().err
