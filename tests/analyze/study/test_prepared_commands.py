"""--drop-dims and --center of every command of a measure that takes them."""

import click
import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from actstore.commands import main
from two_sided import LAYERS, ORDERS, ROLES, N, command, make, vectors

SQL = "from rows where prompt_order = 'image-text'"
TEXT = (SQL, "--roles", "random-text", "--layers", 2)
CALLS = {  # with a metric that a shift changes, where there is one
    "overlap": ("overlap", *TEXT, "-k", 5, "--metric", "cosine", "--label", "split"),
    "data overlap": ("overlap", *TEXT, "-k", 5, "--metric", "cosine", "--with-layer", 1),
    "gap": ("gap", "--layers", 2),
    "cluster": ("cluster", "--layers", 2, "--min-size", 30),
    "clusters of a role": ("cluster", *TEXT, "--min-size", 10),
    "dimension": ("dimension", *TEXT, "--rank", 8, "--metric", "cosine"),
    "probe": ("probe", *TEXT),
}


def residual(change):
    """The vectors of two_sided, changed."""
    return {
        role: np.stack([np.concatenate([change(vectors(role, order, at), at) for order in ORDERS]) for at in LAYERS])
        for role in ROLES
    }


def drowned(x, layer):
    """Noise in dimensions 1 and 4 that owns every distance and hides every label."""
    x = x.copy()
    x[:, [1, 4]] = 1000 * np.random.default_rng(layer).standard_normal((N, 2))
    return x


def moved(x, _):
    """All far away in one direction."""
    return x + np.float32(40)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    changes = {"plain": lambda x, _: x, "drowned": drowned, "moved": moved}
    folder = tmp_path_factory.mktemp("prepared")
    return {name: make(folder / name, residual=residual(change)) for name, change in changes.items()}


def table(capsys, store, asked, *options):
    verb, *rest = asked
    status, rows, err = command(capsys, verb, store, *rest, *options)
    assert status == 0, err
    return pl.DataFrame(rows)


@pytest.mark.parametrize("name", CALLS)
def test_dimensions_that_are_dropped_do_not_count(stores, capsys, name):
    asked = CALLS[name]
    without = table(capsys, stores["drowned"], asked, "--drop-dims", "1,4")
    assert_frame_equal(without, table(capsys, stores["plain"], asked, "--drop-dims", "1,4"))
    assert not without.equals(table(capsys, stores["drowned"], asked))


@pytest.mark.parametrize("name", [name for name in CALLS if name != "probe"])  # a probe standardises anyway
def test_where_centred_vectors_lay_does_not_count(stores, capsys, name):
    asked = CALLS[name]
    centred = table(capsys, stores["moved"], asked, "--center")
    assert_frame_equal(centred, table(capsys, stores["plain"], asked, "--center"), rel_tol=1e-3)
    assert not centred.equals(table(capsys, stores["moved"], asked))


def test_all_commands_that_take_them_are_here():
    context = click.Context(main.cli)
    commands = {name: main.cli.get_command(context, name) for name in main.cli.list_commands(context)}
    taking = {name for name, one in commands.items() if any(option.name == "drop_dims" for option in one.params)}
    assert taking == {verb for verb, *_ in CALLS.values()}
