"""What the explorer answers, and to whom: arrays by path, on this machine alone, for who has the token."""

import hashlib
import http.client
import json
import re
from base64 import b64decode
from importlib.resources import files
from urllib.parse import quote

import numpy as np
import polars as pl
import pytest

import actstore
import looking
from actstore import ActstoreError
from actstore.commands.main import run
from actstore_analyze.neighbors import nearest
from actstore_analyze.report.explore import kept, page, projection
from actstore_analyze.report.explore.resources import MissingError, Resources
from actstore_analyze.sae.source import Source
from served import TOKEN, serving

BASE = "tiny/eoi/none"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return looking.make(tmp_path_factory.mktemp("explored") / "s")


@pytest.fixture(scope="module")
def resources(store):
    return Resources([store])


def plane(resources, layer, role="eoi"):
    return np.frombuffer(resources.get(f"tiny/{role}/none/pca/{layer}/xy"), "<f4").reshape(-1, 2)


def test_the_plane_is_that_of_the_first_two_principal_axes_turned_towards_the_layer_before(resources):
    x = looking.vectors("last")[:, : looking.N - 1].astype(float)
    for layer in looking.LAYERS:
        centred = x[layer] - x[layer].mean(0)
        u, s, _ = np.linalg.svd(centred, full_matrices=False)
        mine, theirs = plane(resources, layer, "last"), u[:, :2] * s[:2]
        assert np.sqrt((mine**2).sum(1).mean()) == pytest.approx(1, abs=1e-5)
        apart = np.linalg.norm(theirs[:, None] - theirs[None], axis=-1)
        np.testing.assert_allclose(
            np.linalg.norm(mine[:, None] - mine[None], axis=-1), apart / np.sqrt((theirs**2).sum(1).mean()), atol=1e-4
        )
        share = resources.get(f"tiny/last/none/pca/{layer}/share")
        assert share == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), abs=1e-5)
    before, after = plane(resources, 1, "last"), plane(resources, 2, "last")
    for angle in np.linspace(0, 2 * np.pi, 24)[1:-1]:
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        for other in (after @ turn, after * [1, -1] @ turn):
            assert ((other - before) ** 2).sum() >= ((after - before) ** 2).sum() - 1e-4


def test_points_that_are_one_say_so(resources):
    assert not plane(resources, 0).any()
    assert resources.get(f"{BASE}/pca/0/share") is None


def test_an_image_that_comes_in_later_has_no_points_before(tmp_path):
    ids = pl.DataFrame({"sample_id": [f"s{i}" for i in range(5)]})
    store = actstore.create(tmp_path / "s", plan=ids, layers=[0, 1], d_model=3, dtype="float32", image_from=1)
    x = np.random.default_rng(0).standard_normal((2, 5, 3)).astype(np.float32)
    x[0] = np.nan
    rows = ids.with_columns(role=pl.lit("image"), modality=pl.lit("image"))
    store.write(0, samples=ids, rows=rows, residual={"image": x})
    found = Resources([actstore.open(tmp_path / "s")])
    (one,) = found.described
    name = one["name"]
    assert one["layers"] == found.layers(name) == [1]
    assert np.isfinite(np.frombuffer(found.get(f"{name}/image/none/pca/1/xy"), "<f4")).all()
    with pytest.raises(MissingError, match="pca/0/xy"):
        found.get(f"{name}/image/none/pca/0/xy")


def test_tsne_begins_with_that_plane_and_refuses_what_takes_too_long(resources, monkeypatch):
    made = np.frombuffer(resources.get(f"{BASE}/tsne/2/xy"), "<f4")
    assert made.size == 2 * (looking.N - 1)
    assert np.isfinite(made).all()
    monkeypatch.setattr(projection, "MOST_TSNE", 20)
    with pytest.raises(ActstoreError, match="t-SNE of 23 points: it takes 10 to 20"):
        resources.get(f"{BASE}/tsne/1/xy")


@pytest.mark.parametrize("layer", looking.LAYERS)
def test_neighbours_are_those_of_the_full_space(resources, layer):
    exact = nearest(looking.vectors("last")[layer, : looking.N - 1], 14)
    everyone = np.frombuffer(resources.get(f"tiny/last/none/near/{layer}"), "<u4").reshape(-1, 14)
    np.testing.assert_array_equal(everyone, exact.indices)
    for point in range(looking.N - 1):
        one = resources.get(f"tiny/last/none/near/{layer}/{point}")
        assert one["indices"] == exact.indices[point].tolist()
        np.testing.assert_allclose(one["distances"], exact.distances[point], atol=1e-4)


def test_the_table_says_of_each_point_what_it_is(resources, store):
    table = resources.get(f"{BASE}/table")
    assert table["n"] == table["of"] == looking.N - 1
    assert table["sample_id"] == [f"s{i:02}" for i in range(looking.N - 1)]
    assert [store.plan["sample_id"][i] for i in table["sample"]] == table["sample_id"]
    assert [(batch << 32) + i for batch, i in table["row_id"]] == store.sql(
        "select row_id from rows where role = 'eoi' order by row_id"
    )["row_id"].to_list()
    label = table["columns"]["label"]
    assert [label["names"][code] for code in label["codes"]] == [looking.LABELS[i % 3] for i in range(looking.N - 1)]
    said = table["columns"]["said"]
    assert [said["names"][code] for code in said["codes"]] == [
        "right" if ("cat" if i % 4 else "dog") == looking.LABELS[i % 3] else "wrong" for i in range(looking.N - 1)
    ]
    for i, at in enumerate(table["picture"]):
        assert resources.get(f"tiny/picture/{at}") == looking.picture(i)


def test_a_sample_has_its_attention_in_bytes(resources):
    heat = resources.get("tiny/sample/5")["pictures"][0]["heat"]
    assert (heat["grid"], heat["first"], heat["beside"], heat["layers"][2]) == ([2, 2], 1, None, None)
    for layer in (0, 1):
        one = heat["layers"][layer]
        assert (one["low"], one["high"]) == (0.125, 0.5)
        assert [*b64decode(one["cells"])] == [255 if cell == (5 + layer) % 4 else 0 for cell in range(4)]


def test_attention_is_that_of_the_layers_which_the_page_has(tmp_path):
    later = Resources([looking.make(tmp_path / "s", image_from=1)])
    assert later.get("stores")[0]["layers"] == [1, 2]
    before, last = later.get("tiny/sample/5")["pictures"][0]["heat"]["layers"]
    assert [*b64decode(before["cells"])] == [255 if cell == (5 + 1) % 4 else 0 for cell in range(4)]
    assert last is None


@pytest.mark.parametrize(
    ("sql", "chosen"),
    [
        ("label = 'cat' and split = 'test'", [18, 21]),
        ("from rows where sample_id = 's03'", [3]),
        ("select row_id from rows where role = 'image' and k = 0", []),
        ("label = 'cat' -- a remark", [*range(0, 23, 3)]),
    ],
)
def test_sql_chooses_points(resources, sql, chosen):
    assert resources.get(f"{BASE}/where?{quote(sql, safe='')}") == chosen


def test_a_query_chooses_what_is_seen_and_a_limit_draws_by_seed(store):
    few = Resources([store], "from rows where split = 'test'").get(f"{BASE}/table")
    assert few["sample_id"] == [f"s{i}" for i in range(16, 23)]
    drawn = [Resources([store], most=5).get(f"{BASE}/table") for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert (drawn[0]["n"], drawn[0]["of"]) == (5, 23)
    with pytest.raises(ActstoreError, match="has no role 'eoy'"):
        Resources([store], roles=["eoy"])


@pytest.mark.parametrize(
    "path", ["", "tiny", "tiny/x", "tiny/eoi/none/pca/9/xy", f"{BASE}/near/1/99", "tiny/picture/99", "tiny/sample/-1"]
)
def test_what_is_not_there_is_missing(resources, path):
    with pytest.raises(MissingError):
        resources.get(path)


def test_a_store_that_keeps_little_is_shown_as_far_as_it_does(tmp_path):
    bare = Resources([looking.make(tmp_path / "s", kept=False)])
    table = bare.get(f"{BASE}/table")
    assert table["picture"] == [None] * 23
    assert [*table["columns"]] == ["label", "split"]
    card = bare.get("tiny/sample/3")
    assert [one["heat"] for one in card["pictures"]] == [None]
    assert {*card["missing"]} == {"pictures", "attention", "said"}
    assert "failed" not in bare.get("tiny/sample/22")
    assert f"actstore thumbnails {tmp_path / 's'}" in card["missing"]["pictures"]
    sent = page.saved(bare, page.choices(bare))
    assert "actstore thumbnails STORE" in sent
    assert str(tmp_path) not in sent


def test_features_are_those_of_the_vector_and_of_each_cell_of_its_picture(store, tmp_path):
    saes, active = looking.encoders(tmp_path)
    with_saes = Resources([store], saes=saes)
    assert with_saes.get("stores")[0]["features"] == [1]
    assert with_saes.get(f"{BASE}/features/2/5") == []
    own, cells = active(looking.vectors("eoi")[1, 5]), active(looking.vectors("image")[1, 20:24])
    strongest = np.argsort(-own)[:8]
    found = with_saes.get(f"{BASE}/features/1/5")
    assert [number for number, *_ in found] == [int(one) for one in strongest if own[one] > 0]
    for number, value, grid in found:
        assert value == pytest.approx(own[number], abs=1e-3)
        of_most = cells[:, number] / max(cells[:, number].max(), 1e-9)
        np.testing.assert_allclose(np.frombuffer(b64decode(grid), np.uint8) / 255, of_most, atol=1 / 400)


def test_a_file_holds_the_features_of_its_points_or_says_why_it_does_not(store, tmp_path, monkeypatch):
    encoders_of, _ = looking.encoders(tmp_path)
    with_saes = Resources([store], roles=["eoi", "last"], saes=encoders_of)
    choices = page.choices(with_saes)

    def held(of=with_saes, **layers):
        text = page.saved(of, choices, **layers)
        return json.loads(re.search(r'id="kept">(.*?)</script>', text, re.DOTALL)[1])["kept"]

    found = held()
    for role, point in (("eoi", 5), ("last", 22)):
        path = f"tiny/{role}/none/features/1/{point}"
        assert json.dumps(found[path]) == json.dumps(with_saes.get(path))
    kept_bytes = sum(len(json.dumps(one)) for path, one in found.items() if "/features/" in path)
    assert page.estimate(with_saes, choices, {"tiny": [0, 1, 2]})["features"] == pytest.approx(kept_bytes, rel=0.5)
    assert held(layers={"tiny": [0, 2]})["stores"][0]["features"] == []
    assert page.estimate(with_saes, choices, {"tiny": [0, 2]})["features"] == 0
    monkeypatch.setattr(kept, "MOST_FEATURES", 0)
    found = held()
    assert found["stores"][0]["places"] == kept.LEFT_OUT
    assert {cells for path, one in found.items() if "/features/" in path for _, _, cells in one} == {None}
    monkeypatch.setattr(kept, "LENS_WORK", 0)
    found = held()
    assert (found["stores"][0]["features"], found["stores"][0]["saes"]) == ([], kept.LEFT_OUT)
    assert not any("/features/" in path for path in found)
    assert "--saes" in held(Resources([store], roles=["eoi", "last"]))["stores"][0]["saes"]
    assert found["stores"][0]["other_model"] is None
    monkeypatch.setattr(Source, "models", ("gemma-2-2b",))
    other = held(Resources([store], roles=["eoi", "last"], saes=encoders_of))["stores"][0]["other_model"]
    assert "trained on gemma-2-2b, the store is of tiny" in other
    named = store.explore("from rows", "eoi", saes=str(tmp_path)).resources
    assert named.get("tiny/eoi/none/features/1/5") == with_saes.get("tiny/eoi/none/features/1/5")
    with pytest.raises(ActstoreError, match="name them with saes"):
        store.explore("from rows", hook="post")


# The server.


@pytest.fixture(scope="module")
def port(resources):
    pytest.importorskip("starlette")
    with serving(resources) as port:
        yield port


def asked(port, path, **headers):
    """Status, headers and body of a request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    reply = connection.getresponse()
    body = reply.read()
    connection.close()
    return reply.status, reply.headers, body


@pytest.fixture(scope="module")
def cookie(port):
    status, headers, body = asked(port, f"/?token={TOKEN}")
    assert status == 200
    assert b"actstore explore" in body
    kept = headers["Set-Cookie"]
    assert "HttpOnly" in kept
    assert "SameSite=strict" in kept
    return kept.partition(";")[0]


PATHS = (
    "/",
    "/data/stores",
    "/data/tiny/sample/1",
    "/static/explore.js",
    "/page.html?store=tiny&role=eoi&condition=none",
)


@pytest.mark.parametrize("path", PATHS)
def test_nothing_is_said_without_the_token(port, path, cookie):
    for given in ({}, {"Cookie": cookie[:-1] + "x"}, {"Cookie": "actstore=" + TOKEN}):
        status, headers, body = asked(port, path, **given)
        assert status == 403
        assert b"tiny" not in body
        assert "Set-Cookie" not in headers
    assert asked(port, f"/data/stores?token={TOKEN}")[0] == 403


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:80"])
@pytest.mark.parametrize("path", [f"/?token={TOKEN}", "/data/stores"])
def test_another_host_is_refused_token_or_not(port, cookie, host, path):
    status, headers, body = asked(port, path, Host=host, Cookie=cookie)
    assert status == 400
    assert "Set-Cookie" not in headers
    assert b"tiny" not in body


def test_the_page_may_ask_nobody_else(port, cookie):
    _, headers, body = asked(port, f"/?token={TOKEN}")
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy
    assert (headers["X-Content-Type-Options"], headers["Cache-Control"]) == ("nosniff", "no-store")
    assert re.findall(rb'(?:src|href)="(?!static/|data:,)[^"]+"', body) == []


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("lable = 'cat'", "did you mean 'label'"),
        ("sample_id in (select content from read_text('/etc/passwd'))", "it has no files"),
        ("select row_id from read_csv('/etc/passwd')", "it has no files"),
        ("select label from rows", "no row_id"),
        ("1); drop view rows; --", "syntax error"),
    ],
)
def test_sql_reads_the_store_alone_and_says_what_is_wrong(port, cookie, sql, said):
    status, _, body = asked(port, f"/data/{BASE}/where?{quote(sql, safe='')}", Cookie=cookie)
    assert status == 400
    assert said in body.decode()
    assert "root:" not in body.decode()


def test_resources_come_as_they_are(port, cookie, resources):
    status, headers, body = asked(port, f"/data/{BASE}/pca/1/xy", Cookie=cookie)
    assert (status, headers["Content-Type"]) == (200, "application/octet-stream")
    assert body == resources.get(f"{BASE}/pca/1/xy")
    assert json.loads(asked(port, "/data/stores", Cookie=cookie)[2]) == resources.get("stores")
    for path in ("/data/other/eoi/none/table", "/static/../server.py", "/static/vendor/LICENSES.txt", "/etc/passwd"):
        assert asked(port, path, Cookie=cookie)[0] == 404
    assert asked(port, f"/data/{BASE}/where?{quote(chr(39))}", Cookie=cookie)[0] == 400


def test_a_view_as_a_file_holds_both_panels_and_nothing_that_was_not_asked_for(port, cookie):
    one, two = "store=tiny&role=eoi&condition=none", "store2=tiny&role2=last&condition2=none"
    for asked_for, held in (
        (one, ["eoi"]),
        (f"{one}&{two}", ["eoi", "last"]),
        (f"{one}&{two}".replace("last", "eoi"), ["eoi"]),
    ):
        status, headers, body = asked(port, f"/page.html?{asked_for}", Cookie=cookie)
        assert (status, headers["Content-Disposition"]) == (200, 'attachment; filename="explore.html"')
        kept = json.loads(re.search(r'id="kept">(.*?)</script>', body.decode(), re.DOTALL)[1])["kept"]
        assert kept["stores"][0]["views"] == [[role, "none"] for role in held]
        assert {path.split("/")[1] for path in kept if path.endswith("/table")} == {*held}
    for wrong, said in (
        ("role=eoi", "/eoi/ (store, role and condition)"),
        ("store=other&role=eoi&condition=none", "other/eoi/none (store"),
        (f"{one}&{two}x", "tiny/last/nonex (store"),
        (f"{one}&role2=last", "/last/ (store"),
        (f"{one}&method=son", "son (method); there are pca, tsne"),
    ):
        status, _, body = asked(port, f"/page.html?{wrong}", Cookie=cookie)
        assert (status, body.decode().startswith(f"nothing is called {said}")) == (404, True), body
        assert "method" in said or "there are tiny/eoi/none, tiny/image/none, tiny/last/none" in body.decode()


def test_only_this_machine_is_listened_to():
    from actstore_analyze.report.explore.server import listening

    with listening() as bound:
        host, port = bound.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(ActstoreError, match=f"port {port} of 127.0.0.1 cannot be had"):
            listening(port)


# One file.


def test_a_file_holds_what_the_page_may_ask_for(store, resources, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run(["explore", str(store.path), "--roles", "eoi,last", "--layers", "0,2", "-o", str(out)]) == 0
    said = capsys.readouterr().err
    about, size = (float(one) for one in re.findall(r"([\d.]+) MB", said)[::1][:2])
    assert about == pytest.approx(size, abs=0.3)
    text = out.read_text()
    kept = json.loads(re.search(r'id="kept">(.*?)</script>', text, re.DOTALL)[1])["kept"]
    assert b64decode(kept[f"{BASE}/pca/2/xy"]) == resources.get(f"{BASE}/pca/2/xy")
    assert b64decode(kept[f"{BASE}/near/2"]) == resources.get(f"{BASE}/near/2")
    assert kept[f"{BASE}/table"] == resources.get(f"{BASE}/table")
    assert b64decode(kept["tiny/picture/5"]) == looking.picture(5)
    assert (kept["stores"][0]["roles"], kept["stores"][0]["layers"]) == (["eoi", "last"], [0, 2])
    assert kept["tiny/sample/5"]["pictures"][0]["heat"]["layers"][1] is None  # that of layer 2
    assert f"{BASE}/pca/1/xy" not in kept
    assert str(store.path) not in text
    assert "<b>" not in text.partition('id="kept">')[2].partition("</script>")[0]
    assert re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)[^"']+["']""", text.partition('id="kept"')[0]) == []
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-o", "p.pdf"], "one .html file"),
        (["--layers", "7", "-o", "p.html"], "tiny has no layer 7"),
        (["--roles", "eoy"], "has no role 'eoy'"),
        (["from rows where lable = 'cat'"], "did you mean 'label'"),
        (["another/store"], "another/store"),
        (["--layers", "x", "-o", "p.html"], "'x' is no layer"),
        (["--layers", "2..0", "-o", "p.html"], "goes down"),
        (["--roles", ","], "names nothing"),
        (["from rows limit 0", "-o", "p.html"], "the query chooses no rows"),
        (["--hook", "post", "-o", "p.html"], "name them with --saes"),
        (["--sae-id", "layer_{layer}", "-o", "p.html"], "name them with --saes"),
    ],
)
def test_what_cannot_be_written_is_refused(store, tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    assert run(["explore", str(store.path), *words]) in (1, 2)
    assert said in capsys.readouterr().err


def test_a_page_that_would_be_too_large_is_refused(resources, monkeypatch):
    monkeypatch.setattr(page, "MOST_BYTES", 1000)
    with pytest.raises(ActstoreError, match="take fewer points"):
        page.saved(resources, [("tiny", "eoi", "none")])


def test_the_scatter_library_is_the_one_whose_licences_are_beside_it():
    vendor = files("actstore_analyze.report.explore") / "static" / "vendor"
    found = hashlib.sha256((vendor / "regl-scatterplot.min.js").read_bytes()).hexdigest()
    assert found == "236451f9a1c8476bf659ee73673ed15b71222ef6062a7c3f8a8c3c934e4ceea5"
    licences = (vendor / "LICENSES.txt").read_text()
    for name in ("regl-scatterplot 1.16.0, MIT", "regl 2.1.1, MIT", "earcut 3.2.4, ISC", "gl-matrix 3.4.4, MIT"):
        assert name in licences
