"""The report: one page that needs nothing else, made of what the stores hold."""

import re
from contextlib import redirect_stderr
from io import StringIO

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.study import said
from actstore_analyze.study.intervals import wilson
from labelled import N, make_store, write_batch
from pages import Page


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """Two stores of which one has a saved overlap, their report, and what was said."""
    tmp_path, heard = tmp_path_factory.mktemp("reported"), StringIO()
    stores = [make_store(tmp_path / name) for name in ("one", "two")]
    assert run(["overlap", str(stores[0]), "--roles", "eoi,image", "-k", "15"]) == 0
    output = tmp_path / "report.html"
    with redirect_stderr(heard):
        assert run(["report", *map(str, stores), "-o", str(output), "--reference", "chameleon-7b"]) == 0
    return stores, output, heard.getvalue()


def test_a_page_that_cannot_be_written_is_no_older_versions_fault(reported, tmp_path, capsys):
    stores, _, _ = reported
    (tmp_path / "page_files").touch()
    assert run(["report", str(stores[0]), "-o", str(tmp_path / "page.html")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "page_files" in line
    assert "cannot be written" in line


def test_page(reported):
    _, output, err = reported
    text = output.read_text()
    page = Page(text)
    assert "two: no saved label overlap of what it holds now; computing it (k = 15)" in err
    assert re.search(r"report.html: \d+ kB; 4 files of its figures in .*report_files", err)

    assert not page.loads
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|https?://(?!www\.w3\.org/)", text)
    assert not re.search(r"<script[^>]+src|<iframe|<link", text)
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        assert (output.parent / link).is_file()
    assert sorted(link.rpartition(".")[2] for link in page.links) == ["csv", "pdf", "png", "svg"]

    assert [heading for heading in page.headings if heading] == [
        "What was found",
        "Label overlap with “label”, k = 15",
        "What the model said",
        "Samples",
        "What was run",
        "How to read this",
        "Beside it: what the paper reports for large models",
        "Methods",
        "How to make this again",
    ]
    assert text.count("<svg") == 2
    assert "tiny (one)" in page.words
    assert "tiny (two)" in page.words
    assert "60 ok, 0 failed" in page.words
    assert "0..2 of width 8, stored as float32" in page.words
    assert f"numpy {np.__version__}" in page.words
    assert "published, not measured here" in page.words
    assert "alone is no evidence of a narrow gate" in page.words
    assert "undefined" in page.words
    assert "actstore overlap one --roles eoi,image --layers 0,1,2 --label label -k 15" in page.words
    assert "actstore report one two -o report.html --reference chameleon-7b" in page.words
    assert str(output.parent) not in text  # of no use to anybody else


def test_numbers_are_those_of_the_store(reported):
    stores, output, _ = reported
    store = actstore.open(stores[0])
    (saved,) = store.results()
    page = Page(output.read_text())
    for overlap, *ends in saved.table().filter(pl.col("overlap").is_not_nan()).select("overlap", "low", "high").rows():
        assert f"{overlap:.3f} ({ends[0]:.3f} to {ends[1]:.3f})" in page.words
    kept = pl.read_csv(output.parent / "report_files" / "label-overlap-k15.csv")
    assert kept["store"].unique(maintain_order=True).to_list() == ["tiny (one)", "tiny (two)"]
    mine = kept.filter(pl.col("store") == "tiny (one)").drop("store")
    assert mine["overlap"].to_list()[1:] == pytest.approx(saved.table()["overlap"].to_list()[1:])


def test_what_the_model_said(reported):
    stores, output, _ = reported
    table = said.accuracy(actstore.open(stores[0]))
    right = {
        split: sum(1 for i in range(N) if i % 10 and (i % 2 == 1) == (split == "train")) for split in ("test", "train")
    }
    assert dict(table.select("split", "right").iter_rows()) == right
    assert table["n"].to_list() == [30, 30]
    row = table.row(0, named=True)
    assert row["low"] < row["accuracy"] == right["test"] / 30 < row["high"]
    assert (
        f"{row['accuracy']:.3f} ({row['low']:.3f} to {row['high']:.3f}) {right['test']} of 30"
        in Page(output.read_text()).words
    )


def test_accuracy_knows_the_marks_of_tokenizers_and_passes_over_what_it_cannot_compare(tmp_path):
    plan = pl.DataFrame(
        {
            "sample_id": list("abcde"),
            "label": ["caf\u00e9"] * 5,
            "prompt_order": ["image-text"] * 3 + ["text-image", "text"],
        }
    )
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2)
    samples = pl.DataFrame(
        {
            "sample_id": list("abcde"),
            "status": "ok",
            "next_token": [" caf\u00e9", "▁cafe\u0301", "dog", *["caf\u00e9"] * 2],
        }
    )
    rows = pl.DataFrame({"sample_id": list("abcde"), "role": "last", "k": 0})
    store.write(0, samples=samples, rows=rows, residual={"last": np.zeros((1, 5, 2), np.float32)})
    found = actstore.open(store.path)
    assert said.accuracy(found).row(0, named=True) | {"low": 0, "high": 0} == {
        "condition": "none", "split": "all", "accuracy": 2 / 3, "low": 0, "high": 0, "right": 2, "n": 3,
    }  # fmt: skip
    assert said.accuracy(found, "class") is None


def test_wilson_against_the_normal_equation():
    for right, n in [(0, 5), (3, 7), (432, 449), (5, 5)]:
        for end in wilson(right, n):
            if 1e-9 < end < 1 - 1e-9:
                assert abs(right / n - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / n))


def test_a_stale_result_is_measured_again(tmp_path, capsys):
    store = make_store(tmp_path / "s", batches=1)
    assert run(["overlap", str(store), "--roles", "eoi", "-k", "7"]) == 0
    write_batch(actstore.open(store), 1, 40, 20)
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    assert "no saved label overlap of what it holds now; computing it (k = 7)" in capsys.readouterr().err
    assert "n = 60" in Page((tmp_path / "r.html").read_text()).words


def headings(output, *stores):
    assert run(["report", *map(str, stores), "-o", str(output)]) == 0
    return [one for one in Page(output.read_text()).headings if one.startswith("Label overlap")]


def test_stores_of_different_sizes_stand_in_one_figure(tmp_path):
    sizes = [make_store(tmp_path / f"s{batches}", batches=batches) for batches in (1, 2)]
    assert headings(tmp_path / "r.html", *sizes) == ["Label overlap with “label”, k = 10"]  # 40 samples, and 60


def test_a_store_is_measured_with_the_neighbours_saved_in_another(tmp_path, capsys):
    saved, bare, small = (make_store(tmp_path / f"s{i}", batches=batches) for i, batches in enumerate((2, 2, 1)))
    for k in ("7", "25"):
        assert run(["overlap", str(saved), "--roles", "eoi", "-k", k]) == 0
    found = headings(tmp_path / "r.html", saved, bare, small)
    assert found == [f"Label overlap with “label”, k = {k}" for k in (25, 7)]
    said = capsys.readouterr().err
    assert "s1: no saved label overlap of what it holds now; computing it (k = 25)" in said
    assert "s2: no saved label overlap of what it holds now; computing it (k = 7)" in said  # 40 samples


def test_different_questions_get_figures_of_their_own(tmp_path):
    store = make_store(tmp_path / "s")
    for arguments in (
        ["-k", "5"],
        ["-k", "5", "--metric", "cosine", "--roles", "image"],
        ["from rows where k = 0", "-k", "5"],
    ):
        assert run(["overlap", str(store), "--roles", "eoi", *arguments]) == 0
    for roles in ("image", "eoi"):
        assert run(["overlap", str(store), "--roles", roles, "-k", "5"]) == 0
    assert run(["report", str(store), "-o", str(tmp_path / "r.html")]) == 0
    page = Page((tmp_path / "r.html").read_text())
    headings = [heading for heading in page.headings if heading.startswith("Label overlap")]
    assert sorted(headings[:2]) == ["Label overlap with “label”, k = 5", "Label overlap with “label”, k = 5, cosine"]
    assert headings[2] == "Label overlap with “label”, k = 5, from rows where k = 0"
    files = {path.name for path in (tmp_path / "r_files").iterdir()}
    assert len(files) == 12
    kept = pl.read_csv(next((tmp_path / "r_files").glob("label-overlap-k5*.csv")))
    assert kept.select("role", "layer", "metric").is_duplicated().sum() == 0


def test_a_store_without_labels_says_what_to_run(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": ["a", "b"]})
    store = actstore.create(tmp_path / "my s", plan=plan, layers=[0], d_model=2)
    output = tmp_path / "r.html"
    assert run(["report", str(store.path), "-o", str(output)]) == 0
    said, size = capsys.readouterr().err.splitlines()
    assert said.startswith(
        f"{store.path}: its samples have no label, and so no label overlap; dimension and norms need"
    )
    assert said.endswith(f"of another column: actstore overlap '{store.path}' --label COLUMN")
    assert "r.html: " in size
    page = Page(output.read_text())
    assert [heading for heading in page.headings if heading] == [
        *("Nothing is measured yet", "What was run", "How to read this", "Methods", "How to make this again"),
    ]  # what a paper says of large models stands beside those, or beside a reference
    assert "actstore overlap STORE --label COLUMN" in page.words


def test_text_of_a_store_is_shown_not_run(tmp_path):
    store = actstore.create(
        tmp_path / "s", plan=pl.DataFrame({"sample_id": ["a"]}), layers=[0], d_model=2,
        run={"model": "<script>alert(1)</script>", "versions": "odd", "recipe": "</pre><img src=x>", "blocked": 3},
    )  # fmt: skip
    assert run(["report", str(store.path), "-o", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in text
    assert "<img" not in text


def test_shipped_models_are_called_what_they_are(tmp_path):
    stores = []
    for name, blocked in (("digits-fusion", []), ("digits-gated", ["text -> image, all layers"])):
        path = make_store(tmp_path / name)
        stores.append(path)
        card = {"model": name, "n_layers": 4, "d_model": 8, "blocked": blocked}
        other = actstore.create(
            tmp_path / f"{name}-2",
            plan=actstore.open(path).plan,
            layers=(0, 1, 2),
            d_model=8,
            dtype="float32",
            run=card,
        )
        write_batch(other, 0, 0, 40)
        stores[-1] = other.path
    assert run(["report", *map(str, stores), "-o", str(tmp_path / "r.html")]) == 0
    words = Page((tmp_path / "r.html").read_text()).words
    assert "digits-fusion is a tiny model (4 layers of width 8) that ships with actstore" in words
    assert "an instrument check, not a finding" in words
    assert "It was trained on 30 of the 60 samples" in words


def test_errors(tmp_path, capsys):
    store = make_store(tmp_path / "s")
    assert run(["report", str(store), "--reference", "gpt", "-o", str(tmp_path / "r.html")]) == 1
    assert "neither paper is about 'gpt'" in capsys.readouterr().err
    (tmp_path / "taken").write_text("")
    assert run(["report", str(store), "-o", str(tmp_path / "taken" / "r.html")]) == 1
    assert ": cannot be written" in capsys.readouterr().err
    assert run(["report", str(store), "-o", str(tmp_path / "r.pdf")]) == 1
    assert "r.pdf: the report is one .html file" in capsys.readouterr().err
    assert run(["report", "-o", str(tmp_path / "r.html")]) == 2


def test_labels_that_are_no_tokens_are_no_accuracy(tmp_path):
    from actstore_analyze.study.said import accuracy

    plan = pl.DataFrame({"sample_id": ["a", "b"], "label": ["class0", "class1"]})
    store = actstore.create(tmp_path / "s", plan=plan, layers=[0], d_model=2, vocabulary={0: "zero", 1: "Ġone"})
    said = pl.DataFrame({"sample_id": ["a", "b"], "next_token": ["zero", " one"]})
    rows = pl.DataFrame({"sample_id": ["a", "b"], "role": ["eoi", "eoi"]})
    store.write(0, samples=said, rows=rows, residual={"eoi": np.zeros((1, 2, 2), np.float32)})
    assert accuracy(actstore.open(tmp_path / "s")) is None


def test_a_page_holds_no_control_characters(tmp_path):
    store = make_store(tmp_path / "o\x07\x1b[1mne", batches=1)
    output = tmp_path / "r.html"
    assert run(["report", str(store), "-o", str(output)]) == 0
    text = output.read_text()
    assert r"o\x07\x1b[1mne" in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", text)
