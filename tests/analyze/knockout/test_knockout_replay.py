"""actstore knockout --replay against the same knockouts run online, in one store."""

import json

import numpy as np
import pytest

import actstore
from actstore.commands.main import run
from actstore_analyze.knockout.replayed import KnockoutReplayed
from extracting import extract

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
KEYS = "boi+image-size+image+eol+machinery+at-frame-end"
ONLINE = """conditions=[
    {name='eoi-knockout', windows=3}, {name='image-knockout'}, {name='random-image-2-knockout', repeats=2},
    {name='eoi-pre-knockout', keys='eoi', mode='pre'}, {name='image-image-knockout'},
]""".replace("\n", " ")


def make(path, name, *changes, keep="roles=['all', 'last']"):
    extract(
        path,
        *("samples.split=test", "samples.limit=24", "capture.part_samples=24", "capture.batch_size=16"),
        *("model.dtype=float32", f"capture.{keep}", f"capture.answers={WORDS}"),
        *changes,
        name=name,
    )
    return path


@pytest.fixture(
    scope="module",
    params=[
        "digits-gated",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("digits-fusion", "digits-mapped")),
    ],
)
def asked(request, tmp_path_factory):
    """A store of 24 samples with an image, and the SQL that chooses them: digits-mapped has as many without."""
    path = tmp_path_factory.mktemp("knocked") / "s"
    if request.param != "digits-mapped":
        return (make(path, request.param, ONLINE),)
    make(path, request.param, ONLINE.replace("eoi", "last-image"))
    return path, "from rows where sample_id like '%/image-text'"


def table(capsys, *arguments):
    status = run(["knockout", *map(str, arguments), "-k", "5", "--format", "jsonl"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return [json.loads(line) for line in printed.out.splitlines()], printed.err


def by_name(rows, metrics=("overlap", "accuracy", "answer_probability")):
    return {(row["knockout"], row["window"], row["metric"]): row for row in rows if row["metric"] in metrics}


def same(replayed, ran):
    assert replayed
    for key, row in replayed.items():
        for column in ("value", "low", "high", "chance", "n", "repeats", "spread", "mode"):
            one, other = row[column], ran[key][column]
            if isinstance(one, str) or one is None:
                assert one == other, (key, column)
            else:
                np.testing.assert_allclose(one, other, atol=2e-5, err_msg=str((key, column)))


def test_replayed_knockouts_are_those_that_ran(asked, capsys):
    ran, _ = table(capsys, *asked)
    ran = by_name(ran)
    end = "eoi" if any(key[0] == "eoi-knockout" for key in ran) else "last-image"
    windows, said = table(capsys, *asked, "--replay", end, "--windows", "3")
    assert "24 un-patched replays come to what they came to at extraction" in said
    assert [row["window"] for row in windows[::3]][:3] == [0, 3, 6]
    same(by_name(windows), ran)
    whole, _ = table(capsys, *asked, "--replay", "image,image-image-knockout")
    same(by_name(whole), ran)
    before, _ = table(capsys, *asked, "--replay", f"{end}-knockout", "--mode", "pre", "--low-memory")
    renamed = {(key[0].replace(end, f"{end}-pre"), *key[1:]): row for key, row in by_name(before).items()}
    same({key: row for key, row in renamed.items() if key[0] != "none"}, ran)
    random, _ = table(capsys, *asked, "--replay", "random-image-2", "--limit", "24")
    assert [row["n"] for row in random if row["metric"] == "accuracy"] == [24, 24]
    changed = [abs(row["value"] - ran["none", 0, key[2]]["value"]) for key, row in ran.items() if key[2] == "accuracy"]
    assert max(changed) > 0.2


@pytest.mark.slow
def test_what_cannot_be_replayed(tmp_path, capsys):
    path = make(tmp_path / "kv", "digits-gated", "capture.kv=['prefix']", keep="roles=['suffix']")
    rows, _ = table(capsys, path, "--replay", "image", "--mode", "pre")
    assert [row["n"] for row in rows] == [24] * 6
    for arguments, message in [
        (
            ("--replay", "image-image"),
            "keeps the residual stream of suffix at all of 7 layers, keys and values of prefix",
        ),
        (
            ("--replay", "image-image"),
            f"{KEYS} -> {KEYS}, layers [0, 1, 2",
        ),
        (("--replay", "image-image"), "begin at position 1: every position has to be there, at all layers; extract"),
        (("--replay", "eol"), "has no text -> eol"),
        (("--replay", "eol"), "choose samples that have both sides with SQL"),
        (("--replay", "eio"), "no role is called 'eio'"),
        (("--replay", "eoi", "--role", "eoi"), "of a replay the last token is compared"),
        (("--replay", "eoi", "--label", "nothing"), "no column 'nothing'"),
        (("--replay", "eoi", "--layers", "2"), "compared at the output"),
        (("--mode", "pre"), "is of replays: say which keys are knocked out"),
    ]:
        assert run(["knockout", str(path), *arguments]) in (1, 2)
        assert message in capsys.readouterr().err


def test_it_is_drawn_and_recalled(tmp_path, capsys):
    path = make(tmp_path / "s", "digits-fusion")
    asked = (path, "--replay", "eoi", "--limit", "20")
    first, _ = table(capsys, *asked)
    again, said = table(capsys, *asked, "--figure", tmp_path / "k.svg")
    assert first == again
    assert "recalled" in said
    assert "knockout" in (tmp_path / "k.svg").read_text() or "eoi" in (tmp_path / "k.svg").read_text()
    (result,) = (one for one in actstore.open(path).results() if one.measure == "knockout_replayed")
    assert result.measure == "knockout_replayed"


@pytest.mark.slow
def test_conditions_as_recipes_write_them(tmp_path, capsys):
    keys, where = "name = 'both-knockout', keys = ['eoi', 'last-image']", "layers = [1, 2], heads = [0, 3]"
    online = f"{{ {keys}, {where} }}, {{ name = 'random-image-2-knockout', repeats = 2 }}"
    path = make(tmp_path / "s", "digits-gated", f"conditions=[{online}]")
    ran = by_name(table(capsys, path)[0])
    options, _ = table(capsys, path, "--replay", f"{{ {keys} }}", "--blocks", "1..2", "--heads", "0,3")
    same(by_name(options), ran)
    inline, _ = table(capsys, path, "--replay", f"{{ {keys}, {where} }},random-image-2", "--force")
    same({key: row for key, row in by_name(inline).items() if "random" not in key[0]}, ran)
    draws, _ = table(capsys, path, "--replay", "random-image-2", "--repeats", "2")
    same(by_name(draws), ran)
    saved = next(one for one in actstore.open(path).results() if one.measure == "knockout_replayed")
    call = KnockoutReplayed.again(saved.parameters)
    assert call.blocked
    assert "blocked" not in call.command(path)
    for asked, message in [
        (("eoi", "--repeats", "2"), "repeats are for random roles"),
        (("{ keys = ['eoi' }",), "write it as in a recipe: { keys = ['eoi', 'last-image'], queries = 'text' }"),
        (("{ queries = 'text' }",), "keys and queries are wanted"),
        (("{ keys = 'eoi', windos = 2 }",), "unknown key 'windos'; did you mean 'windows'"),
        (("eoi", "--blocks", "6"), "6 is too large for a model of 6 layers"),
    ]:
        assert run(["knockout", str(path), "--replay", *asked]) == 1
        assert message in capsys.readouterr().err
