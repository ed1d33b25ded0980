"""The report on gap, clusters and dimension."""

import re

from actstore.commands.main import run
from pages import Page


def test_report_shows_what_was_measured(store, tmp_path, capsys):
    for arguments in (["gap", "--pairs", "all"], ["cluster"], ["dimension", "--rank", "8"]):
        assert run([arguments[0], str(store), *arguments[1:]]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html"), "--reference", "pixtral-12b"]) == 0
    page = (tmp_path / "r.html").read_text()
    assert page.count("Pale: Pixtral-12B as published, not measured here") >= 3
    assert "Pixtral-12B, layer 40: 0." in page
    for heading in ("Modality gap, all pairs", "Clusters of text + image against", "Intrinsic dimension, rank 8"):
        assert f'">{heading}' in page
    assert "quartiles of the cosines of all pairs" in page
    assert re.search(r"actstore gap \S+ --layers 0,1,2 --pairs all", page)
    assert str(tmp_path) not in page
    names = {path.name for path in (tmp_path / "r_files").glob("*.csv")}
    assert {"modality-gap-all-pairs.csv", "intrinsic-dimension-rank-8.csv"} <= names


def test_methods_are_said_once_of_calls_that_differ_elsewhere(store, tmp_path, capsys):
    for options in ([], ["--positions", "1"]):
        assert run(["dimension", str(store), "--rank", "8", *options]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = (tmp_path / "r.html").read_text()
    assert [one for one in Page(page).headings if one.startswith("Intrinsic")] == ["Intrinsic dimension, rank 8"] * 2
    methods = page.partition('id="methods">')[2].partition("</section>")[0]
    assert methods.count("Intrinsic dimension by Gride") == 1
