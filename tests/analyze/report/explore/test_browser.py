"""The explorer as a person uses it, in a real browser."""

import json
import math
import os
from base64 import b64encode

import pytest

import browsing
import looking
from actstore.errors import ActstoreError
from actstore_analyze.report.explore import page as pages
from actstore_analyze.report.explore.resources import Resources
from browsing import READY, Seen
from served import TOKEN, serving

if not os.environ.get("CI"):
    pytest.importorskip("starlette")
pytestmark = browsing.needed()


@pytest.fixture(scope="module")
def resources(tmp_path_factory):
    return Resources([looking.make(tmp_path_factory.mktemp("browsed") / "s")])


@pytest.fixture(scope="module")
def browser():
    with browsing.launched() as started:
        yield started


@pytest.fixture(scope="module")
def address(resources):
    with serving(resources) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def seen(browser, address):
    found = Seen(browser, (address, "data:", "blob:"))
    found.page.goto(f"{address}?token={TOKEN}#role=eoi&layer=1")
    found.page.wait_for_selector(READY)
    yield found
    found.page.context.close()
    assert (found.errors, found.elsewhere) == ([], [])


def test_somebody_finds_a_point_and_sends_what_is_seen(seen, browser, address, tmp_path):
    """Filter, click, look where the text looked, go to another layer, share the link, send the file."""
    page = seen.page
    assert TOKEN not in page.url
    page.fill("#where", "label = 'cat' and next_token != label")
    page.press("#where", "Enter")
    page.wait_for_function("document.querySelector('#said').textContent === '2 of 23 points'")
    page.mouse.move(*seen.at(12))
    seen.click(12, "s12")
    page.wait_for_selector("#card svg polyline")
    assert seen.alpha() == [255 * 0.84 // 1 if cell == (12 + 1) % 4 else 0 for cell in range(4)]
    assert page.locator("#card .thumbs .thumb").count() == 14
    assert "0.125 (clear) to 0.5" in page.inner_text("#scale-said")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelector('#at').textContent === '0'")
    page.wait_for_function("document.querySelector('#scale-said').textContent.includes('layer 0')")
    assert seen.alpha().index(214) == 12 % 4
    other = page.context.new_page()
    other.goto(page.url)
    other.wait_for_selector(READY)
    assert other.inner_text("#at") == "0"
    assert other.inner_text("#card h2") == "s12"
    assert other.inner_text("#said") == "2 of 23 points"
    with page.expect_download() as download:
        page.click("#file")
    download.value.save_as(tmp_path / "sent.html")
    _opens_by_itself(browser, tmp_path / "sent.html", point="s12", layer="0")


def _opens_by_itself(browser, path, *, point, layer):
    """In a fresh profile without network."""
    alone = Seen(browser, ("file:", "data:", "blob:"), offline=True)
    alone.page.goto(path.as_uri())
    alone.page.wait_for_selector(READY)
    assert alone.page.inner_text("#at") == layer
    assert alone.page.inner_text("#card h2") == point
    alone.page.wait_for_selector("#card svg polyline")
    assert alone.alpha().index(214) == 12 % 4
    assert alone.page.evaluate("document.querySelector('.pic img').naturalWidth") == 8
    alone.page.focus(".plot")
    alone.page.keyboard.press("ArrowRight")
    alone.page.wait_for_function("document.querySelector('#at').textContent === '1'")
    alone.page.wait_for_function("document.querySelector('#scale-said').textContent.includes('layer 1')")
    assert alone.alpha().index(214) == 13 % 4
    assert (alone.errors, alone.elsewhere) == ([], [])
    alone.page.context.close()


@pytest.mark.slow
def test_a_notebook_shows_the_page_in_a_frame(browser, resources, tmp_path):
    (store,) = resources.stores.values()
    explored = store.explore("from rows where split = 'train'", ["eoi"])
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{explored._repr_html_()}</body>")
    seen = Seen(browser, ("file:", "data:", "blob:", "about:"), offline=True)
    seen.page.goto((tmp_path / "cell.html").as_uri())
    frame = seen.page.frame_locator("iframe")
    frame.locator(READY).wait_for()
    assert frame.locator("#said").inner_text() == "16 of 16 points"
    frame.locator("#layer").press("ArrowLeft")
    frame.locator("#at >> text=1").wait_for()
    assert (seen.errors, seen.elsewhere) == ([], [])
    seen.page.context.close()
    explored.save(tmp_path / "saved.html")
    assert (tmp_path / "saved.html").read_text() == explored.page


@pytest.mark.slow
def test_what_is_selected_in_a_widget_comes_back_to_python(browser, resources, tmp_path):
    """The module that a notebook's front end loads, with a model as the front end has it."""
    pytest.importorskip("anywidget")
    (store,) = resources.stores.values()
    widget = store.explore("from rows", ["eoi"]).widget()
    assert widget.selected.height == 0
    module = "data:text/javascript;base64," + b64encode(pages.static("widget.js").encode()).decode()
    said = json.dumps(widget.page).replace("<", "\\u003c")
    (tmp_path / "cell.html").write_text(
        f"<!doctype html><body><script>const kept = {{page: {said}}};"
        "const model = {get: (name) => kept[name], set: (name, value) => { kept[name] = value; }, save_changes: () => {"
        f"kept.saved = (kept.saved ?? 0) + 1; }}}};</script><script type=module>import made from '{module}';"
        "made.render({model, el: document.body});</script>"
    )
    seen = Seen(browser, ("file:", "data:", "blob:", "about:"), offline=True)
    seen.page.goto((tmp_path / "cell.html").as_uri())
    seen.page.frame_locator("iframe").locator(READY).wait_for()
    frame = seen.page.frames[1]
    for chosen, expression in (
        ([4, 7], "scatter.select([4, 7])"),
        ([3], "scatter.select([3])"),
        ([], "scatter.deselect()"),
    ):
        frame.evaluate(f"void explorer.first.{expression}")
        seen.page.wait_for_function(f"kept.row_ids && kept.row_ids.length === {len(chosen)}")
        widget.row_ids = seen.page.evaluate("kept.row_ids")
        rows = resources.view(*pages.choices(Resources([store], roles=["eoi"]))[0]).rows
        assert widget.selected["row_id"].to_list() == rows["row_id"].gather(chosen).to_list()
    seen.page.evaluate("postMessage({selected: ['1']}, '*')")  # another window is not listened to
    assert seen.page.evaluate("kept.row_ids") == []
    assert (seen.errors, seen.elsewhere) == ([], [])
    seen.page.context.close()
    widget.row_ids = ["1) or (true"]
    with pytest.raises(ActstoreError, match="which are no row ids"):
        _ = widget.selected


@pytest.mark.slow
def test_a_lasso_counts_and_wrong_sql_says_why(seen):
    page = seen.page
    middle, radius = seen.at(5), 60
    inside = [i for i in range(23) if math.dist(seen.at(i), middle) < radius - 3]  # before the selection has its place
    page.keyboard.down("Shift")
    ring = [(middle[0] + radius * math.cos(k / 6), middle[1] + radius * math.sin(k / 6)) for k in range(40)]
    page.mouse.move(*ring[0])
    page.mouse.down()
    for place in ring:
        page.mouse.move(*place)
        page.wait_for_timeout(16)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector("#selection:not([hidden])")
    chosen = page.evaluate("explorer.selected.points")
    assert {*inside} <= {*chosen}
    assert page.inner_text("#selection b") == f"{len(chosen)} selected"
    counts = page.locator("#selection .number").all_inner_texts()
    assert sum(map(int, counts)) == len(chosen)
    page.fill("#where", "lable = 'cat'")
    page.press("#where", "Enter")
    page.wait_for_selector("#where.bad")
    assert "did you mean 'label'" in page.inner_text("#said")
    seen.errors[:] = [one for one in seen.errors if "400" not in one]  # the console says that a request was refused
    page.fill("#where", "")
    page.press("#where", "Enter")
    page.wait_for_function("document.querySelector('#said').textContent === '23 of 23 points'")
    page.click(".legend button >> nth=0")
    page.wait_for_function("document.querySelector('#said').textContent === '16 of 23 points'")
    assert page.inner_text(".legend button >> nth=0") == "<b>"


@pytest.mark.slow
def test_a_hundred_thousand_points_in_a_file_are_too_many_and_in_the_page_are_drawn(browser, tmp_path):
    import numpy as np
    import polars as pl

    import actstore

    n = 100_000
    plan = pl.DataFrame({"sample_id": [f"s{i}" for i in range(n)], "label": ["ab"[i % 2] for i in range(n)]})
    store = actstore.create(
        *(tmp_path / "s",),
        plan=plan.with_columns(batch=pl.lit(0)),
        layers=(0, 1),
        d_model=8,
        dtype="float32",
        run={"model": "big"},
    )
    x = np.random.default_rng(0).standard_normal((2, n, 8)).astype(np.float32)
    store.write(
        0,
        samples=plan.select("sample_id", pl.lit("ok").alias("status")),
        rows=plan.select("sample_id", pl.lit("last").alias("role")),
        residual={"last": x},
    )
    resources = Resources([actstore.open(tmp_path / "s")])
    with serving(resources) as port:
        seen = Seen(browser, (f"http://127.0.0.1:{port}", "data:", "blob:"))
        seen.page.goto(f"http://127.0.0.1:{port}/?token={TOKEN}")
        seen.page.wait_for_selector(READY)
        assert seen.page.inner_text("#said") == "100,000 of 100,000 points"
        seen.page.evaluate("explorer.choose(explorer.first, 7)")
        seen.page.wait_for_selector("#card svg polyline")
        assert seen.errors == []
        seen.page.context.close()
    assert sum(pages.estimate(resources, [("big", "last", "none")], {"big": [0, 1]}).values()) > 2e7
