"""AnnData's files, read by h5py as the format's page says, and by anndata where it is installed."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import making
from actstore import ActstoreError
from actstore.commands.export import export

h5py = pytest.importorskip("h5py")
QUERY = """
select row_id, sample_id, role, label, place, position, nullif(position, 1) as late, nullif(role, 'eoi') as of_image,
    null as nothing, 0.5 as half, position > 1 as last, nullif(position > 1, false) as perhaps, [1, 2] as list,
    nullif((1::bigint << 60) + place, 1::bigint << 60) as huge
from rows where role = 'image' order by hash(row_id)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s")


@pytest.fixture(scope="module")
def path(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "x.h5ad"
    assert export(store, QUERY, [0, 2], path) == [path]
    assert [one.name for one in path.parent.iterdir()] == ["x.h5ad"]
    return path


def read(element):
    """An element as its encoding says: an array, a table by columns, or a dictionary."""
    kind = element.attrs["encoding-type"]
    if kind == "array":
        return element[()]
    if kind == "string":
        return element.asstr()[()]
    if kind == "string-array":
        return element.asstr()[()].tolist()
    if kind == "categorical":
        names = read(element["categories"])
        return [names[code] if code >= 0 else None for code in read(element["codes"])]
    if kind == "dataframe":
        return {name: read(element[name]) for name in (element.attrs["_index"], *element.attrs["column-order"])}
    assert kind in ("anndata", "dict"), kind
    return {name: read(element[name]) for name in element}


def test_as_the_formats_page_says(store, path):
    rows = store.sql(QUERY)
    with h5py.File(path) as file:
        found = read(file)
        assert dict(file.attrs) == {"encoding-type": "anndata", "encoding-version": "0.1.0"}
    assert sorted(found["layers"]) == ["layer_0", "layer_2"]
    for layer in (0, 2):
        assert_array_equal(found["layers"][f"layer_{layer}"], making.expected(rows, layer))
    assert_array_equal(found["X"], making.expected(rows, 2))
    assert found["var"] == {"d": [str(i) for i in range(8)]}
    obs = found["obs"]
    assert obs.pop("row_id") == [str(row) for row in rows["row_id"]]
    assert all(one.dtype != np.int64 for one in obs.values() if isinstance(one, np.ndarray))  # cellxgene takes none
    assert "nothing" not in obs
    assert obs["list"] == ["[1, 2]"] * rows.height
    assert_array_equal(obs["late"], rows["late"].cast(pl.Float64).to_numpy())  # NaN where it is NULL
    assert obs["perhaps"] == [None if one is None else "true" for one in rows["perhaps"]]
    assert obs["huge"] == [None if one is None else str(one) for one in rows["huge"]]
    for name in obs.keys() - {"list", "late", "perhaps", "huge"}:
        assert [*obs[name]] == rows[name].to_list(), name
    said = json.loads(found["uns"]["actstore"])
    assert (said["sql"], said["layers"], said["state"]) == (QUERY, [0, 2], store.state)


@pytest.mark.parametrize("most", [2_000, 9])
def test_the_plane_is_that_of_the_first_two_axes(store, tmp_path, monkeypatch, most):
    monkeypatch.setattr("actstore.commands.h5ad.OF_AXES", most)
    export(store, QUERY, [2], tmp_path / "x.h5ad")
    x = making.expected(store.sql(QUERY), 2)
    chosen = x if most > len(x) else x[::2]
    _, _, axes = np.linalg.svd(chosen - chosen.mean(0), full_matrices=False)
    with h5py.File(tmp_path / "x.h5ad") as file:
        plane = read(file["obsm/X_plane"])
    assert_allclose(np.abs(plane), np.abs((x - chosen.mean(0)) @ axes[:2].T), atol=2e-3)


def test_one_point_has_a_plane(store, tmp_path):
    export(store, "from rows limit 1", [0], tmp_path / "x.h5ad")
    with h5py.File(tmp_path / "x.h5ad") as file:
        assert read(file["obsm/X_plane"]).tolist() == [[0, 0]]


@pytest.mark.parametrize(
    ("query", "layers", "error"),
    [
        ("select row_id from (from rows union all from rows)", [0], "some are there twice; choose each once"),
        ("select row_id, k as 'a/b' from rows", [0], "no .h5ad has a column 'a/b'"),
        ("select row_id, 'a' || chr(0) || k as t from rows", [0], "no .h5ad holds such text"),
        ("from rows", [1, 1], "two columns would be called 'layer_1'"),
    ],
)
def test_one_clear_error(store, tmp_path, query, layers, error):
    with pytest.raises(ActstoreError, match=error):
        export(store, query, layers, tmp_path / "x.h5ad")
    assert not [*tmp_path.iterdir()]


def test_without_h5py(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ActstoreError, match=r"\.h5ad needs h5py; install it with: pip install 'h5py>=3"):
        export(store, QUERY, [0], tmp_path / "x.h5ad")


def test_anndata_and_scanpy_read_it(store, path):
    """In an environment that has them; anndata 0.12 goes with pandas 2."""
    pytest.importorskip("anndata")
    scanpy = pytest.importorskip("scanpy")
    program = (
        "import sys, scanpy; a = scanpy.read_h5ad(sys.argv[1]); scanpy.pp.pca(a, n_comps=2); print(a.obs.to_json())"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = store.sql(QUERY)
    assert list(json.loads(done.stdout)["label"].values()) == rows["label"].to_list()
    assert_array_equal(scanpy.read_h5ad(path).X, making.expected(rows, 2))
    assert pl.from_pandas(scanpy.read_h5ad(path).obs["of_image"]).to_list() == rows["of_image"].to_list()
