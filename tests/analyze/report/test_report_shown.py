"""What a report shows first, and which samples; what is chosen, named and said once."""

import re
import shlex
from contextlib import redirect_stderr
from io import StringIO

import polars as pl
import pytest

import actstore
import knockouts
import looking
from actstore.commands.main import run
from actstore_analyze.report import findings, samples
from actstore_analyze.report.experiments import others, overlaps
from actstore_analyze.report.places import Places
from actstore_analyze.study.subjects import subjects
from pages import Page


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with pictures, of which a sample failed, and two saved results."""
    path = looking.make(tmp_path_factory.mktemp("shown") / "s").path
    assert run(["overlap", str(path), "--roles", "eoi,last", "-k", "3"]) == 0
    assert run(["dimension", str(path), "--roles", "last", "--rank", "2"]) == 0
    return actstore.open(path)


@pytest.fixture(scope="module")
def reported(store):
    """The page of that store and of a second one, and what was said."""
    other = looking.make(store.path.parent / "bare", kept=False)
    output, heard = store.path.parent / "r.html", StringIO()
    with redirect_stderr(heard):
        assert run(["report", str(store.path), str(other.path), "-o", str(output), "--title", "What it <sees>"]) == 0
    return output.read_text(), heard.getvalue()


def test_findings_come_first_with_their_figures(store, reported):
    text, _ = reported
    found = text[: text.index("<nav")]
    table = next(one.table() for one in store.results() if one.measure == "overlap")
    best = (
        table.filter(pl.col("overlap").is_not_nan())
        .sort("overlap", descending=True, maintain_order=True)
        .row(0, named=True)
    )
    assert (
        f"The label overlap χ is highest at {best['role']}, layer {best['layer']}, in tiny (s): {best['overlap']:.3f} "
        f"({best['low']:.3f} to {best['high']:.3f}; chance {best['chance']:.3f})" in Page(found).words
    )
    assert "that does not say that the model uses it there" in found
    assert 1 <= found.count("<li>") <= findings.MOST
    assert "To see: label overlap χ is highest" in Page(text).words


def test_contents_lead_to_what_is_there(reported):
    page = Page(reported[0])
    assert len(page.anchors) >= 7
    assert {one.removeprefix("#") for one in page.anchors} <= {*page.ids}
    assert len(page.ids) == len({*page.ids})
    assert not page.loads


def test_the_title_is_the_one_given(reported):
    assert "<h1>What it &lt;sees&gt;</h1>" in reported[0]


def test_what_runs_share_is_said_once(reported):
    runs = reported[0].partition('<h2 id="runs">')[2].partition("</section>")[0]
    alike, table = runs.partition("<table")[::2]
    assert "0..2 of width" in alike
    assert "0..2 of width" not in table
    assert "what differs" in table.lower()
    for name, field in (("s", "eoi, image, last"), ("bare", "eoi")):
        assert f'<td data-of="folder">{name}</td>' in table
        assert f'<td data-of="roles">{field}</td>' in table


def test_samples_are_shown_with_what_was_said(store, reported):
    text, heard = reported
    found = {row.title: row.cards for row in samples.rows(subjects([store]))}
    table = store.sql("from samples where status = 'ok'")
    right = int((table["next_token"] == table["label"]).sum())
    assert [*found] == [
        f"wrong (of {table.height - right} that are wrong)",
        f"right (of {right} that are right)",
        "failed (1)",
    ]
    first = next(iter(found.values()))[0]
    row = table.filter(pl.col("sample_id") == first.sample_id).row(0, named=True)
    assert (first.said, first.note) == (f"“{row['next_token']}”", f"not “{row['label']}”")
    assert found["failed (1)"][0].note == "not a picture"
    assert first.picture.startswith("data:image/webp;base64,")
    shown = sum(len(cards) for cards in found.values())
    assert text.count('<img src="data:image/webp') == shown
    assert f"holds {shown} pictures of samples" in heard


def test_samples_that_an_intervention_moves(tmp_path):
    store = actstore.open(knockouts.make_store(tmp_path / "k"))
    (row,) = samples.rows(subjects([store]))
    told = store.sql(
        "select c.condition, count(*) as n, count(*) filter (c.next_token <> n.next_token) as other from samples c "
        "join samples n on n.sample_id = c.sample_id and n.condition = 'none' where c.condition <> 'none' group by all"
    ).sort(pl.col("other") / pl.col("n"), descending=True)
    condition, n, other = told.row(0)
    assert row.title == f"moved most by {condition}: {other} of {n} say something else"
    assert all(" → " in card.said for card in row.cards)


def test_pictures_are_taken_from_a_store_of_the_same_samples_alone(store, tmp_path):
    bare = looking.make(tmp_path / "b", kept=False)
    cards = [card for row in samples.rows(subjects([bare, store])) if row.store.endswith("(b)") for card in row.cards]
    assert [card.picture for card in cards] == [None]  # no run card says where its samples are from: only its failure
    assert samples._source(bare) is None


@pytest.mark.parametrize("only", ["dimension", "samples", "{result}"])
def test_only_what_was_asked_for(store, tmp_path, only):
    result = next(one.name for one in store.results() if one.measure == "overlap")
    output = tmp_path / "r.html"
    asked = only.format(result=result)
    assert run(["report", str(store.path), "-o", str(output), "--only", asked]) == 0
    page = Page(output.read_text())
    headings = [one.partition(" ")[0] for one in page.headings if one]
    assert ("Label" in headings) == ("overlap" in asked)
    assert ("Intrinsic" in headings) == ("dimension" in asked)
    assert ("Samples" in headings) == ("samples" in asked)
    assert "Nothing" not in headings
    assert f"--only {asked}" in page.words


def test_only_of_what_nothing_has(store, tmp_path, capsys):
    assert run(["report", str(store.path), "-o", str(tmp_path / "r.html"), "--only", "overlop"]) == 1
    said = capsys.readouterr().err
    assert "a report shows no 'overlop'; did you mean 'overlap'?" in said
    assert not (tmp_path / "r.html").exists()


def test_undefined_is_explained_where_it_stands(reported):
    details = [part for part in reported[0].split("<details>")[1:] if "undefined" in part.partition("</details>")[0]]
    assert details
    for part in details:
        assert "all vectors" in part.partition("</details>")[0].partition("<caption>")[2]


def test_commands_make_the_page_again(reported, store, monkeypatch):
    """Those that the page shows, typed in the folder that holds the stores."""
    monkeypatch.chdir(store.path.parent)
    text = re.search(r"<pre>(# with .*?)</pre>", reported[0], re.DOTALL)[1]
    lines = [line.replace("&#39;", "'").replace("&lt;", "<").replace("&gt;", ">") for line in text.splitlines()[1:]]
    assert len(lines) >= 3
    for line in lines:
        program, *words = shlex.split(line)
        assert program == "actstore"
        assert run(words) == 0
    again = (store.path.parent / "r.html").read_text()
    assert Page(again).words.partition("What was found")[2] == Page(reported[0]).words.partition("What was found")[2]


def test_places_are_seen_from_the_folder_that_holds_them(tmp_path, monkeypatch):
    stores = [tmp_path / "a" / "one", tmp_path / "a" / "two"]
    places = Places([*stores, tmp_path / "r.html"])
    assert [places.path(one) for one in stores] == ["a/one", "a/two"]
    assert places.text(f"{stores[0]}: left out") == "a/one: left out"
    asked = ["actstore", "overlap", str(stores[0]), "from rows where split = 'test'", "--with", str(stores[1])]
    assert places.command(asked) == "actstore overlap a/one \"from rows where split = 'test'\" --with a/two"
    assert shlex.split(places.command(["x", "it's $HOME"])) == ["x", "it's $HOME"]
    monkeypatch.chdir(tmp_path / ".")
    assert Places([tmp_path / "b"]).path(tmp_path / "b") == "b"


def test_findings_of_measures_say_no_more_than_their_tables(store):
    found = findings.findings([*overlaps(subjects([store]), say=print), *others(subjects([store]), say=print)])
    assert [one.text.partition(" is ")[0] for one in found] == ["The label overlap χ", "The intrinsic dimension"]
    assert findings.findings([]) == []
