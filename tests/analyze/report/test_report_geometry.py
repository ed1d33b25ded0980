"""The report on gap, clusters and dimension."""

import re

from actstore.commands.main import run


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
