"""What a terminal shows: text as it is, and what a terminal would obey made visible."""

import re

import polars as pl
import pytest

import actstore
from actstore import progress
from actstore.commands import info, main
from actstore.errors import visible

EVIL = "\x1b[31m\x07red\x9b0m\u202e"
SHOWN = r"\x1b[31m\x07red\x9b0m\u202e"
LABELS = ["[a]", "[/INST] x [/]", ":100: :smile:", "[bold]b", EVIL]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in range(len(LABELS))], "label": LABELS})
    return actstore.create(folder / "s", plan=plan, layers=(0,), d_model=4, run={"model": EVIL}).path


@pytest.mark.parametrize("style", ["table", "markdown"])
def test_tables_show_text_as_it_is(path, tmp_path, style):
    query = "select label, ['nan'::float, 1] as numbers, label as \"[x] :100:\" from plan order by sample_id"
    out = tmp_path / "t"
    assert main.run(["query", str(path), query, "--format", style, "-o", str(out)]) == 0
    header, *lines = [line for line in out.read_text().splitlines() if not line.startswith("| ---")]
    assert "[x] :100:" in header
    for label, line in zip([*LABELS[:-1], SHOWN], lines, strict=True):
        assert [piece for piece in re.split(r"\s*\|\s*|\s{2,}", line) if piece] == [label, "[nan, 1.0]", label]


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["query", "{path}", "select label from plan", "--format", "table"], 0),
        (["query", "{path}", "select error('" + EVIL + "')"], 1),
        (["query", "/no/such" + EVIL, "select 1"], 1),
    ],
)
def test_nothing_that_a_terminal_obeys_reaches_it(path, capfdbinary, arguments, status):
    assert main.run([one.replace("{path}", str(path)) for one in arguments]) == status
    shown = b"".join(capfdbinary.readouterr()).decode()
    assert SHOWN in shown
    assert not set(EVIL) & set("\x07\x1b\x9b\u202e") & set(shown)


def test_the_summary_of_a_store(path):
    lines = info.summary(actstore.open(path)).splitlines()
    assert lines[1] == f"model    {SHOWN}"


def test_a_line_beside_a_bar(capfd):
    with progress.bar(1, "checks") as bar:
        bar.say(f"[/INST] :100: {EVIL}")
    assert capfd.readouterr().err == f"[/INST] :100: {SHOWN}\n"


def test_data_stays_as_it_is(path, capfdbinary):
    for style in ("csv", "jsonl", "json"):
        assert main.run(["query", str(path), "select label from plan order by all", "--format", style]) == 0
        out = capfdbinary.readouterr()[0]
        read = {"csv": pl.read_csv, "jsonl": pl.read_ndjson, "json": pl.read_json}[style]
        assert read(out)["label"].to_list() == sorted(LABELS)


def test_lines_of_our_own_messages_stay():
    assert visible("a\n\tb\x1b", lines=True) == "a\n\tb\\x1b"
    assert visible("naïve 猫 🐈\u200d⬛ e\u0301") == "naïve 猫 🐈\u200d⬛ e\u0301"
