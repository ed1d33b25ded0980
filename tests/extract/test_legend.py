"""The legend: what roles are in a prompt."""

import json

import numpy as np
import polars as pl
import pytest

import actstore
from actstore.commands.main import run
from actstore_extract import legend, roles


def test_every_role_has_its_meaning_and_every_example_is_a_role():
    table = legend.example()
    plain = {name for name in table["role"] if not name.endswith(("-COLUMN", "-K", "-N", "-NAME", "-P"))}
    assert plain == set(roles._PLAIN)
    for name, example in table.select("role", "example").iter_rows():
        if name != "at-NAME":
            assert roles.parse_role(example or name)
    with pytest.raises(
        roles.RoleError,
        match="no role is called 'x'.*image-size.*text-mean, word-COLUMN, words-COLUMN, ROLE-of-N: see actstore roles",
    ):
        roles.parse_role("x")


def test_the_example_is_what_its_picture_shows():
    places = dict(legend.example().select("role", "positions").iter_rows())
    numbers, tokens = (line.split() for line in legend.prompt().splitlines())
    assert numbers == [str(at) for at in range(14)]
    assert [at for at, token in enumerate(tokens) if token == "■"] == [int(at) for at in places["image"].split()]
    assert (tokens[int(places["eoi"])], tokens[int(places["last"])], tokens[int(places["last-N"])]) == (
        *("</image>", "dog", "guide"),
    )
    assert places["image-K"] == places["at-P"] == "3"  # counted from 1, and from 0
    assert tokens[int(places["word-COLUMN"])] == "dog"


def test_of_a_store(tmp_path, capsys):
    plan = pl.DataFrame({"sample_id": ["b", "a"]})
    store = actstore.create(
        tmp_path / "s", plan=plan, layers=[0], d_model=2, dtype="float32", vocabulary={3: "Ġa", 4: "Ġdog", 5: "<image>"}
    )
    each = [(name, "image", k, 1 + k, 5) for name in ("b", "a") for k in range(9)]
    each += [("a", "eol", k, at, 4) for k, at in enumerate((3, 7))]
    each += [("b", "image-mean", 0, None, None), ("b", "last", 0, 12, 3)]
    rows = pl.DataFrame(each, schema=["sample_id", "role", "k", "position", "token_id"], orient="row")
    vectors = {role: np.zeros((1, n, 2), np.float32) for role, n in rows["role"].value_counts().iter_rows()}
    store.write(0, samples=plan.with_columns(status=pl.lit("ok")), rows=rows, residual=vectors)
    assert run(["roles", str(tmp_path / "s"), "--format", "jsonl"]) == 0
    found = {row["role"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert [tuple(found[role].values())[1:] for role in ("eol", "image", "image-mean", "last")] == [
        ("a", 2, "3 7", "dog dog"),
        ("a", 9, "1..9", "<image> <image> <image> … <image> <image> <image>"),
        ("b", 1, None, None),
        ("b", 1, "12", "a"),
    ]


def test_of_a_recipe(capsys):
    assert run(["roles", "digits-fusion", "--format", "jsonl"]) == 0
    found = {row["role"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert (found["all"]["positions"], found["image"]["positions"]) == ("0..22", "2..17")
    assert found["text"]["tokens"] == "this digit is a"
    assert not {"eol", "image-size"} & found.keys()  # this model has none
    assert run(["roles", "digits-fusoin"]) == 1
    assert "digits-fusion" in capsys.readouterr().err
