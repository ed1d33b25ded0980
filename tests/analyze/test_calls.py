"""Measures in Python: what the command line gives, and its errors."""

import json
import pickle
import shlex
from base64 import b64decode
from importlib.metadata import entry_points

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal

import actstore
import actstore_analyze
from actstore.commands import main
from actstore.commands.plugins import GROUP
from actstore.errors import ActstoreError
from actstore_analyze import Measured, measure, measures, write_report
from two_sided import make

CALLS = [
    ("overlap", {"roles": ["random-image", "eoi"], "k": 3}, ["--roles", "random-image,eoi", "-k", "3"]),
    (
        "overlap",
        {"roles": "random-image", "with_layer": 0, "k": 3},
        ["--roles", "random-image", "--with-layer", "0", "-k", "3"],
    ),
    ("gap", {"layers": range(2)}, ["--layers", "0..1"]),
    ("outliers", {"layers": np.array([1]), "force": True}, ["--layers", "1"]),
    (
        "cka",
        {"roles": pl.Series(["random-image"]), "sql": "from rows where k = 0"},
        ["--roles", "random-image", "from rows where k = 0"],
    ),
]


@pytest.fixture(name="store")
def opened(store):
    return actstore.open(store)


@pytest.mark.parametrize(("name", "options", "words"), CALLS)
def test_what_the_command_line_gives(store, tmp_path, name, options, words):
    file = tmp_path / "table.parquet"
    found = measure(store, name, **options)
    assert main.run([name, str(store.path), *words, "-o", str(file)]) == 0
    assert_frame_equal(found.table, pl.read_parquet(file))
    assert found.results[0].table().equals(found.table)
    again = shlex.split(found.command)
    assert again[:3] == ["actstore", name, str(store.path)]
    assert main.run([*again[1:], "-o", str(tmp_path / "again.parquet")]) == 0
    assert_frame_equal(found.table, pl.read_parquet(tmp_path / "again.parquet"))


def test_measures_are_commands():
    commands = {entry.name for entry in entry_points(group=GROUP)}
    assert set(measures()) <= commands
    assert {"overlap", "gap", "knockout", "patch", "sae", "probe", "lens"} <= set(measures())


def test_a_store_has_them(store):
    found = store.measure.gap(layers=[0])
    assert isinstance(found, Measured)
    assert found.table.equals(store.measure("gap", layers=[0]).table)
    assert "measure" in dir(store)
    assert "overlap" in dir(store.measure)
    assert "Label overlap" in store.measure.overlap.__doc__
    with pytest.raises(AttributeError, match="no measure 'gapp'.*gap"):
        store.measure.gapp  # noqa: B018


def test_it_is_recalled(store, monkeypatch):
    first = measure(store, "gap", layers=[1])
    monkeypatch.setattr("actstore_analyze.gap.study.Gap.table", None)
    assert measure(str(store.path), "gap", layers=[1]).table.equals(first.table)


def test_a_notebook_shows_it_offline(store):
    found = measure(store, "gap")
    shown = found.figure._repr_mimebundle_()
    assert shown["image/svg+xml"].startswith("<svg")
    assert b64decode(shown["image/png"]).startswith(b"\x89PNG")
    (vega,) = (value for kind, value in shown.items() if "vegalite" in kind)
    assert json.dumps(vega)
    html = found._repr_html_()
    assert "<svg" in html
    assert "<table" in html
    assert "src=" not in html
    assert 'href="http' not in html


def test_it_is_saved(store, tmp_path):
    found = measure(store, "gap")
    for name in ("a.png", "a.svg", "a.pdf", "b/a.csv", "a.parquet"):
        found.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    with pytest.raises(ActstoreError, match="a figure is written as .png, .svg, .pdf, not '.gif'"):
        found.save(tmp_path / "a.gif")
    with pytest.raises(ActstoreError, match="store"):
        found.save(store.path / "a.csv")


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("overlapp", {}, "no measure 'overlapp'.*overlap"),
        ("overlap", {"rolls": ["eoi"]}, "overlap has no option 'rolls'.*roles"),
        ("overlap", {"figure": "x.png"}, "figure is of the command line alone: what comes back has .table"),
        ("overlap", {"k": 0}, "overlap: Invalid value for '-k'"),
        ("overlap", {"k": "many"}, "'many' is not a valid integer"),
        ("overlap", {"unique": "yes"}, "unique is True or False, not 'yes'"),
        ("overlap", {"k": True}, "k = True: a number"),
        ("overlap", {"roles": pl.DataFrame({"a": [1]})}, "roles = shape"),
        ("overlap", {"layers": [99]}, "layer 99"),
        ("overlap", {"roles": []}, "names nothing"),
        ("overlap", {"with_layer": 1, "label": "label"}, "--label is of label overlap"),
        ("gap", {"sql": "drop table rows"}, "syntax error"),
        ("gap", {"sql": pl.DataFrame({"row_id": [1]})}, "a query is text, not DataFrame"),
        ("gap", {"sql": " "}, "the query is empty"),
        ("gap", {"layers": [-9]}, "layer -9 is not in this store"),
        ("gap", {"layers": [True]}, "layers = True|True"),
        (5, {}, "a measure's name is text, not 5"),
    ],
)
def test_one_clear_error(store, name, options, error):
    with pytest.raises(ActstoreError, match=error):
        measure(store, name, **options)


def test_layers_from_the_last(store):
    last = store.measure.gap(layers=[store.layers[-1]])
    assert store.measure.gap(layers=-1).table.equals(last.table)
    assert store.measure.gap(layers=[-1]).results == last.results  # the same call
    between = {"roles": ["random-image"], "layers": [1], "k": 3}
    named = store.measure.overlap(with_layer=store.layers[-1], **between)
    assert store.measure.overlap(with_layer=-1, **between).table.equals(named.table)
    assert (
        store.measure.cka(roles="random-image", with_layers=[-1]).table["with_layer"].unique().item()
        == (store.layers[-1])
    )


def test_the_query_may_stand_first(store):
    asked = "from rows where k = 0"
    found = store.measure.gap(sql=asked)
    for again in (store.measure.gap(asked), store.measure("gap", asked), measure(store, "gap", asked)):
        assert again.results == found.results


def test_an_answer_goes_to_other_processes(store):
    for name in ("gap", "outliers", "cka"):
        found = store.measure(name, layers=[0, 1])
        again = pickle.loads(pickle.dumps(found))
        assert again.table.equals(found.table)
        assert again.figure.chart.to_dict() == found.figure.chart.to_dict()
        assert pickle.loads(pickle.dumps(again)).command == found.command  # with its figure drawn


def test_a_store_of_a_folder_that_was_left(store, tmp_path, monkeypatch):
    monkeypatch.chdir(store.path.parent)
    opened = actstore.open(store.path.name)
    monkeypatch.chdir(tmp_path)
    found = opened.measure.gap(layers=[0])
    assert found.command.startswith(f"actstore gap {store.path.name} ")
    assert found.results == store.measure.gap(layers=[0]).results
    assert opened.results() == store.results()
    write_report(opened, "page.html", only="gap")
    assert (tmp_path / "page.html").exists()


def test_no_store(tmp_path):
    with pytest.raises(ActstoreError, match="a store is a path, not 5"):
        measure(5, "gap")
    with pytest.raises(ActstoreError, match="store"):
        measure(tmp_path / "nothing", "gap")


def test_a_page_about_them(tmp_path):
    store = actstore.open(make(tmp_path / "store"))
    measure(store, "gap")
    page = write_report([store], tmp_path / "page.html")
    assert "<svg" in page.read_text()
    for one in (store, store.path, str(store.path)):  # a store alone, a name alone
        assert "<svg" in write_report(one, str(tmp_path / "one.html"), only="gap").read_text()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"stores": []}, r"a page is about one store or a list of some, not \[\]"),
        ({"stores": 5}, "a page is about one store or a list of some, not 5"),
        ({"stores": [5]}, "a store is a path, not 5"),
        ({"path": None}, "a page is a path, not None"),
        ({"only": 5}, "only are names in a list, not 5"),
        ({"only": [5]}, "only are names in a list"),
        ({"title": 5}, "title is text, not 5"),
        ({"reference": 5}, "reference is text, not 5"),
    ],
)
def test_no_page_about_that(store, tmp_path, given, error):
    with pytest.raises(ActstoreError, match=error):
        write_report(**{"stores": [store], "path": tmp_path / "page.html"} | given)
    assert list(tmp_path.glob("page*")) == []


def test_what_is_offered_is_there():
    assert {"measure", "measures", "write_report", "Measured"} <= set(dir(actstore_analyze))
    assert actstore.open


def test_saved_results_show_themselves(store):
    found = store.measure.gap(layers=[0])
    saved = store.results()
    (one,) = [one for one in saved if one.name == found.results[0].name]
    assert repr(one).startswith(f"<Result {one.name} (20")
    assert "layers = [0]" in repr(one)
    for said in (one.name, "gap", "layers = [0]", one.created):
        assert said in saved._repr_html_()
        assert said in one._repr_html_()
    assert one.figure.svg.startswith("<svg")
    assert "<svg" in one._repr_html_()
    assert one.figure.chart.to_dict() == found.figure.chart.to_dict()


def test_a_result_without_a_figure_shows_its_table(store):
    one = store.save_result("counted", pl.DataFrame({"n": [7]}), {"word": "<b>"})
    with pytest.raises(ActstoreError, match="nothing is drawn of counted"):
        one.figure  # noqa: B018
    html = one._repr_html_()
    assert "<svg" not in html
    assert "&lt;b&gt;" in html
    assert ">7<" in html


def test_options_of_other_libraries(store):
    usual = measure(store, "gap", layers=[1]).table
    for layers in (torch.tensor([1]), pd.Series([1]), pd.Index([1]), np.array([1]), {1}, range(1, 2)):
        assert measure(store, "gap", layers=layers).table.equals(usual)
    with pytest.raises(ActstoreError, match="layers = tensor.*: a number, a name or a list"):
        measure(store, "gap", layers=torch.tensor([[1]]))


def test_points_in_the_plane(store):
    assert "<iframe" in actstore_analyze.explore(store.path, roles=["eoi"], limit=5)._repr_html_()
    assert repr(store.explore(roles="eoi", limit=5)) == "<Explored tiny: .save('page.html'), .page, .widget()>"
    assert store.explore(roles="eoi", limit=5).page == store.explore(roles=["eoi"], limit=5).page


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"roles": 5}, "roles are names in a list, not 5"),
        ({"query": pl.DataFrame({"row_id": [1]})}, "a query is text, not DataFrame"),
        ({"limit": 0}, "limit is at least 1, not 0"),
        ({"limit": float("nan")}, "limit is a whole number, not nan"),
    ],
)
def test_no_points_of_that(store, given, error):
    with pytest.raises(ActstoreError, match=error):
        store.explore(**given)


def test_where_nothing_is_saved(store, tmp_path):
    found = store.explore(roles="eoi", limit=5)
    for one in (found, store.measure.gap(), store.measure.gap().figure):
        with pytest.raises(ActstoreError, match="is a path, not 5"):
            one.save(5)
    with pytest.raises(ActstoreError, match=r"the page is one .html file"):
        found.save(tmp_path / "x.png")
    found.save(tmp_path / "x.HTML")
    store.measure.gap().save(tmp_path / "x.CSV")
    store.measure.gap().save(tmp_path / "x.PNG")
    assert (tmp_path / "x.PNG").read_bytes()[1:4] == b"PNG"
    assert pl.read_csv(tmp_path / "x.CSV").height


def test_a_missing_extra_is_one_line(store, monkeypatch):
    def missing(*_, **__):
        raise ModuleNotFoundError("No module named 'faiss'", name="faiss")

    monkeypatch.setattr("actstore_analyze.gap.study.Gap.table", missing)
    with pytest.raises(ActstoreError, match=r"gap needs faiss; install it with: pip install .*'faiss-cpu>="):
        measure(store, "gap", layers=[1], force=True)
