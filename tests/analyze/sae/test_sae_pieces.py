"""Autoencoders in pieces: numbers of a naive pass over the whole group, whatever is cut, drawn later or undefined."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

import actstore
from actstore.errors import ActstoreError, UndefinedError
from actstore_analyze.sae import study
from actstore_analyze.sae.measure import rotation
from actstore_analyze.sae.share import Share
from actstore_analyze.sae.source import Source
from actstore_analyze.sae.study import METRICS, Rebuilt
from actstore_analyze.study import pieces
from scoped import D, Dense, make_scope, make_store, vectors, weights

COUNTS = {"a": 3, "b": 5}  # images of each sample


@pytest.fixture
def store(tmp_path):
    return actstore.open(make_store(tmp_path / "store"))


@pytest.fixture
def scope(tmp_path):
    return str(make_scope(tmp_path / "scope"))


@pytest.fixture
def cut(monkeypatch, tmp_path):
    """Has pieces of two vectors, the sums of one unit at a time, and what is kept in a folder of its own."""

    def begin():
        monkeypatch.setattr(pieces, "PIECE_BYTES", 1)
        monkeypatch.setattr(pieces, "MOST", 10**9)
        monkeypatch.setattr(pieces, "BLOCK_BYTES", 2 * 4 * D)
        monkeypatch.setattr(study, "MOST_STATES", 0)
        monkeypatch.setattr(study, "SUMS_BYTES", 1)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return begin


def table(store, scope, **asked):
    return Rebuilt.of(store, saes=scope, **asked).table(store, say=lambda _: None)


def naive(x, sae, weight):
    """METRICS of vectors (n, d) at once, in float64."""
    x = x.astype(np.float64)
    features = sae.encode(x)
    rebuilt = sae.decode(features)
    error, lengths = np.square(x - rebuilt).sum(axis=1), np.linalg.norm(x, axis=1)
    variance = np.square(x - np.average(x, axis=0, weights=weight)).sum(axis=1)
    active = (features > 0).sum(axis=1)
    cosine = (x * rebuilt).sum(axis=1) / lengths / np.linalg.norm(rebuilt, axis=1)
    each = [error, error / D, np.sqrt(error) / lengths, error, cosine, active, active / features.shape[1]]
    found = dict(zip(METRICS, np.average(each, axis=1, weights=weight), strict=True))
    return {**found, "fvu": found["fvu"] / np.average(variance, weights=weight)}


def gaussian(x, weight, seed):
    """As many vectors of the same mean and covariance, by the symmetric root of numpy's own covariance."""
    of = np.cov(x.T, aweights=weight, ddof=0) * len(x) / (len(x) - 1)
    left, values, _ = np.linalg.svd(of)
    drawn = np.random.default_rng(seed).standard_normal(x.shape)
    return np.average(x, axis=0, weights=weight) + drawn @ (left * np.sqrt(values)) @ left.T


@pytest.mark.parametrize("average", ["example", "token"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_the_table_is_that_of_a_naive_pass_over_each_group(store, scope, cut, average, is_cut):
    """Gaussian vectors too."""
    if is_cut:
        cut()
    found = table(store, scope, roles=["image"], average=average, seed=7)
    weight = 1 / np.repeat([*COUNTS.values()], [*COUNTS.values()]) if average == "example" else np.ones(8)
    for layer in (1, 2):
        x, sae = vectors("image", layer), Dense(weights(layer - 1))
        expected = {
            "none": naive(x, sae, weight),
            "rotated": naive(x @ rotation(D, 7), sae, weight),
            "gaussian": naive(gaussian(x.astype(np.float64), weight, 7), sae, np.ones(8)),
        }
        own = found.filter(layer=layer)
        assert own["control"].to_list() == [*expected]
        assert own["n"].to_list() == [8, 8, 8]
        for row in own.iter_rows(named=True):
            assert {name: row[name] for name in METRICS} == pytest.approx(expected[row["control"]], rel=1e-5)


@pytest.mark.parametrize(
    "asked",
    [{}, {"average": "token"}, {"positions": 2}, {"no_controls": True}, {"interval": "none"}, {"untrained": True}],
)
def test_pieces_have_the_numbers_of_whole_groups(store, scope, cut, tmp_path, asked):
    if "untrained" in asked:
        asked = {"untrained": make_store(tmp_path / "untrained", shift=0.25)}
    whole = table(store, scope, **asked)
    cut()
    call = Rebuilt.of(store, saes=scope, **asked)
    units = call.units(store, say=print)
    assert len(call.pieces(store, units)) >= 2 * len(units)
    assert len({*whole["control"]}) == (1 if "no_controls" in asked else 4 if "untrained" in asked else 3)
    assert_frame_equal(call.table(store, say=print), whole, rel_tol=1e-5, abs_tol=1e-7)


def test_an_autoencoder_is_loaded_once_for_all_pieces_of_its_layer(store, scope, cut, monkeypatch):
    loaded, load = [], Source.load
    monkeypatch.setattr(Source, "load", lambda self, point, *more: loaded.append(point) or load(self, point, *more))
    cut()
    table(store, scope)
    assert loaded == [1, 2]
    assert not any(latest._held for latest in (study.autoencoders, study.turns, study.others))


def test_states_are_no_larger_than_pieces_are_cut_for(store, scope, cut, monkeypatch):
    """Of moments the triangle; of a group that is one piece no moments at all."""
    call = Rebuilt.of(store, saes=scope, roles=["image"])
    units = call.units(store, say=print)
    sizes = []
    for begin in (lambda: None, cut):
        begin()
        (own,) = call.states(store, call.pieces(store, units)[0]).values()
        assert own.sums.nbytes + own.lower.nbytes <= Share.n_bytes(D, drawn=True)
        sizes.append(len(own.lower))
    assert sizes == [0, D * (D + 1) // 2]
    monkeypatch.setattr(study, "MOST_STATES", 16)
    assert len(call.pieces(store, units)) == len(units)


def test_moments_are_in_memory_of_as_many_units_as_there_is_room_for(store, scope, cut, monkeypatch):
    cut()
    call = Rebuilt.of(store, saes=scope)
    found = call.pieces(store, call.units(store, say=print))
    of_one = Share.n_bytes(D, drawn=True)
    for room, units in ((1, [1] * 6), (2 * of_one, [2] * 3), (10 * of_one, [6])):
        monkeypatch.setattr(study, "SUMS_BYTES", room)
        together = [*call._at_a_time(store, found)]
        assert [len({piece.number for piece in some}) for some in together] == units
        assert [piece for some in together for piece in some] == found


class StoppedError(Exception):
    pass


def test_a_call_that_was_interrupted_while_drawing_reads_nothing_again(store, scope, cut, monkeypatch, tmp_path):
    cut()
    asked = {"saes": scope, "roles": ["image"], "layers": [1]}
    alone = store.measure.sae(**asked).table
    read, whole, drawn = [], Rebuilt.states, Rebuilt.drawn

    def stopped(*_):
        raise StoppedError

    def states(self, *piece):  # by its name it is pickled
        read.append(1)
        return whole(self, *piece)

    monkeypatch.setattr("actstore_analyze.study.kept.SECONDS", -1.0)
    monkeypatch.setattr(Rebuilt, "drawn", stopped)
    with pytest.raises(StoppedError):
        store.measure.sae(**asked, force=True)
    monkeypatch.setattr(Rebuilt, "drawn", drawn)
    monkeypatch.setattr(Rebuilt, "states", states)
    with pytest.warns(UserWarning, match="4 of 4 units were done by a call that was interrupted"):
        assert store.measure.sae(**asked, force=True).table.equals(alone)
    assert not read
    assert not [*(tmp_path / "cache").rglob("*.npz")]


def with_zero(path):
    """Two samples of three vectors in two roles; one of the images, in the second part, is zero."""
    plan = pl.DataFrame({"batch": [0, 1], "sample_id": ["a", "b"]})
    made = actstore.create(path, plan=plan, layers=[1], d_model=D, dtype="float32")
    x = np.random.default_rng(0).standard_normal((2, 1, 3, D)).astype(np.float32)
    for number, name in enumerate("ab"):
        rows = pl.DataFrame(
            [(name, role) for role in ("image", "text") for _ in range(3)], ["sample_id", "role"], orient="row"
        )
        image = x[number].copy()
        image[0, 1] *= 1 - number
        samples = pl.DataFrame({"sample_id": [name], "status": ["ok"]})
        made.write(number, samples=samples, rows=rows, residual={"image": image, "text": x[number]})
    return actstore.open(path)


def test_a_group_with_a_zero_vector_is_not_defined_whichever_piece_has_it(scope, cut, tmp_path):
    store = with_zero(tmp_path / "zero")
    cut()
    found = table(store, scope, roles=["image", "text"], untrained=store.path, average="token")
    assert found.select("role", "control", "n").rows() == [
        ("image", "none", 6), ("text", "none", 6), ("text", "rotated", 6), ("text", "gaussian", 6),
        ("image", "untrained", 6), ("text", "untrained", 6),
    ]  # fmt: skip
    undefined = found.filter(pl.col("reason").is_not_null())
    assert undefined["role"].unique().to_list() == ["image"]
    assert undefined["reason"].str.contains("is a zero vector").all()
    assert np.isnan(undefined["mse"].to_numpy()).all()
    assert undefined["n_features"].to_list() == [10, 10]


def test_an_error_names_the_group_and_the_layer(store, scope, cut, tmp_path):
    """The other store lacks the second layer."""
    plan = pl.DataFrame({"sample_id": ["a"], "prompt_order": ["image-text"]})
    other = actstore.create(tmp_path / "other", plan=plan, layers=[1], d_model=D, dtype="float32")
    rows, x = pl.DataFrame({"sample_id": ["a"] * 4, "role": "image"}), np.ones((1, 4, D), np.float32)
    other.write(0, samples=pl.DataFrame({"sample_id": ["a"], "status": ["ok"]}), rows=rows, residual={"image": x})
    cut()
    with pytest.raises(ActstoreError, match="^image, image-text, none, layer 2: .*layer 2") as raised:
        table(store, scope, roles=["image"], untrained=other.path)
    assert not isinstance(raised.value, UndefinedError)
