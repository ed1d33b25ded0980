"""The explorer as a person uses it, in a real browser."""

import json
import math
import os
from base64 import b64decode, b64encode
from urllib.parse import parse_qsl, urlencode

import pytest

import browsing
import looking
from actstore.errors import ActstoreError
from actstore_analyze.report.explore import page as pages
from actstore_analyze.report.explore.resources import Resources
from browsing import AROUND, READY, Seen
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


def test_a_click_is_heard_where_no_frame_came_since_the_mouse_moved(seen):
    """As on a busy machine: the way there is no drag, the view stays, and what is drawn is drawn."""
    x, y = seen.at(5)
    went = seen.page.evaluate(
        """async ([x, y]) => {
            const frame = () => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            const { canvas, scatter } = explorer.first, told = (name, buttons, dx = 0) => canvas.dispatchEvent(
                new MouseEvent(name, { bubbles: true, clientX: x + dx, clientY: y, buttons }));
            const seen = () => scatter.get("cameraView")[12], before = seen();
            told("mousemove", 0, -200); await frame();
            told("mousemove", 0); told("mousedown", 1); await frame();
            told("mouseup", 0); told("click", 0); await frame();
            const clicked = seen();
            told("mousedown", 1); told("mousemove", 1, 30); await frame();
            told("mouseup", 0, 30); await frame();
            return [before, clicked, seen()];
        }""",
        [x, y],
    )
    seen.page.wait_for_selector("#card h2 >> text=s05")
    assert went[0] == went[1] < went[2]  # a drag is one


def test_a_page_whose_graphics_were_lost_draws_anew(seen):
    """As where a machine sleeps; the points, the view, what is hidden and what is chosen are as they were."""
    page = seen.page
    drawn = """() => { const { width, height } = explorer.first.canvas, pen = explorer.first.canvas.getContext("2d");
        const shown = pen.getImageData(0, 0, width, height).data; let n = 0;
        for (let i = 3; i < shown.length; i += 4) n += shown[i] > 0; return n; }"""
    page.locator(".legend button >> nth=0").click()
    seen.click(4, "s04")
    page.mouse.move(*seen.at(7))
    page.mouse.wheel(0, -100)
    page.wait_for_timeout(300)
    state = (
        "[explorer.first.scatter.get('cameraView'), explorer.first.scatter.get('selectedPoints'), explorer.first.kept]"
    )
    before, points = page.evaluate(state), page.evaluate(drawn)
    assert points > 0
    page.evaluate("explorer.first.scatter.get('renderer').regl._gl.getExtension('WEBGL_lose_context').loseContext()")
    page.wait_for_function("explorer.first.scatter.get('isPointsDrawn') && !explorer.first.laying")
    page.wait_for_timeout(300)
    assert page.evaluate(state) == before
    assert page.evaluate(drawn) == pytest.approx(points, rel=0.05)
    page.evaluate("void explorer.move(2).then(() => { window.moved = true; })")
    page.wait_for_function("window.moved", timeout=20_000)
    page.wait_for_timeout(300)
    assert page.evaluate(drawn) > 0


def test_a_browser_without_graphics_says_so(browser, address):
    seen = Seen(browser, (address, "data:", "blob:"))
    seen.page.add_init_script(
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext = function (kind)"
        " { return kind === 'webgl' ? null : get.apply(this, arguments); };"
    )
    seen.page.goto(f"{address}?token={TOKEN}")
    seen.page.wait_for_selector("#card >> text=the browser gives this page no graphics (WebGL)")
    seen.page.context.close()


NOWHERE = dict(
    parse_qsl(
        "store=other&role=eos&condition=blocked&store2=tiny&role2=lats&condition2=non&method=son&layer=1e9&colour=lable"
        "&hidden=77&point=9.9&panel=3&rolle=eoi"
    )
)


@pytest.mark.parametrize("where", ["server", "file"])
def test_what_an_address_asks_for_in_vain_is_said(browser, address, resources, tmp_path, where):
    """Each with what there is, and with what is shown in its place."""
    if where == "file":
        (tmp_path / "page.html").write_text(pages.saved(resources, pages.choices(resources)))
    at = f"{address}?token={TOKEN}" if where == "server" else (tmp_path / "page.html").as_uri()
    seen = Seen(browser, (address, "file:", "data:", "blob:"))
    page = seen.page
    page.goto(f"{at}#{urlencode(NOWHERE)}")
    page.wait_for_selector(READY)
    said = page.inner_text("#unmet")
    for name in {*NOWHERE} - {"store2", "hidden", "rolle"}:
        assert f"it asks for {name} “{NOWHERE[name]}”" in said
    assert "it has “rolle”, which is nothing that it can say: store, role, condition" in said
    assert "condition “blocked”; of role eoi in tiny there is “none”; “none” is shown" in said
    assert "role “eos”; in tiny there are “eoi”, “image”, “last”; “eoi” is shown" in said
    assert "layer “1e9”; here there are “0”, “1”, “2”; “2” is shown" in said
    assert "point “9.9”, which is not among the 23 points here" in said
    assert page.evaluate("[explorer.first.role, explorer.second.role, explorer.layer, explorer.colour]") == [
        *("eoi", "eoi", 2, "label")
    ]
    page.click("#unmet button")
    assert not page.is_visible("#unmet")
    page.goto("about:blank")
    page.goto(f"{at}#role=eoi&layer=1&hidden=1.77&where=label+%3D+%27cat%27+and+k+%3D+0")
    page.wait_for_selector(READY)
    assert "it hides 77 of 3 values of label" in page.inner_text("#unmet")
    assert page.evaluate("[...explorer.hidden]") == [1]
    left_out = "all points: what “label = 'cat' and k = 0” chooses of this view is not in the file"
    assert (left_out in page.inner_text(".note")) == (where == "file")
    page.goto("about:blank")
    page.goto(f"{at}#role=eoi&layer=0&method=pca&colour=label&hidden=0&panel=1")
    page.wait_for_selector(READY)
    assert not page.is_visible("#unmet")
    assert (seen.errors, seen.elsewhere) == ([], [])
    page.context.close()


@pytest.mark.slow
def test_a_notebook_shows_the_page_in_a_frame(browser, resources, tmp_path):
    (store,) = resources.stores.values()
    explored = store.explore("from rows where split = 'train'", ["eoi"])
    (tmp_path / "cell.html").write_text(f"<!doctype html><body>{explored._repr_html_()}</body>")
    seen = Seen(browser, ("file:", "data:", "blob:", "about:"), offline=True)
    seen.page.goto((tmp_path / "cell.html").as_uri())
    frame = seen.page.frame_locator("iframe")
    frame.locator(READY).wait_for()
    frame.locator("#said >> text=16 of 16 points").wait_for()
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
    seen.frame = frame = seen.page.frames[1]
    rows = resources.view(*pages.choices(Resources([store], roles=["eoi"]))[0]).rows
    for act in ("lasso", "click", "escape"):
        chosen = seen.lasso(AROUND) if act == "lasso" else [3] if act == "click" else []
        if act == "click":
            seen.click(3, "s03")
        elif act == "escape":
            frame.press(".plot", "Escape")
        seen.page.wait_for_function(f"kept.row_ids && kept.row_ids.length === {len(chosen)}")
        widget.row_ids = seen.page.evaluate("kept.row_ids")
        assert widget.selected["row_id"].to_list() == rows["row_id"].gather(sorted(chosen)).to_list()
    seen.page.evaluate("postMessage({selected: ['1']}, '*')")  # another window is not listened to
    assert seen.page.evaluate("kept.row_ids") == []
    assert (seen.errors, seen.elsewhere) == ([], [])
    seen.page.context.close()
    widget.row_ids = ["1) or (true"]
    with pytest.raises(ActstoreError, match="which are no row ids"):
        _ = widget.selected


@pytest.mark.slow
def test_a_feature_pointed_at_is_painted_where_it_is_active(browser, resources, tmp_path):
    saes, _ = looking.encoders(tmp_path)
    with_saes = Resources([*resources.stores.values()], saes=saes)
    with serving(with_saes) as port:
        own = f"http://127.0.0.1:{port}/"
        seen = Seen(browser, (own, "data:", "blob:"))
        page = seen.page
        page.goto(f"{own}?token={TOKEN}#role=eoi&layer=1")
        page.wait_for_selector(READY)
        seen.click(5, "s05")
        page.wait_for_selector("#card .bars button")
        number, _, cells = with_saes.get(f"{next(iter(resources.stores))}/eoi/none/features/1/5")[0]
        before = page.inner_text("#scale-said"), seen.alpha()
        page.locator("#card .bars button").first.hover()
        assert page.inner_text("#scale-said").startswith(f"where feature {number} is active")
        assert [bool(one) for one in seen.alpha()] == [one > 0 for one in b64decode(cells)]
        page.mouse.move(1, 1)
        assert (page.inner_text("#scale-said"), seen.alpha()) == before
        assert (seen.errors, seen.elsewhere) == ([], [])
        page.context.close()


def test_a_lasso_counts_and_wrong_sql_says_why(seen):
    page = seen.page
    middle, radius = seen.at(5), 60
    inside = [i for i in range(23) if math.dist(seen.at(i), middle) < radius - 3]  # before the selection has its place
    box = page.locator(".plot").bounding_box()
    ring = [(middle[0] + radius * math.cos(k / 6), middle[1] + radius * math.sin(k / 6)) for k in range(40)]
    chosen = seen.lasso([((x - box["x"]) / box["width"], (y - box["y"]) / box["height"]) for x, y in ring])
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
        seen.click(7, "s7")
        seen.page.wait_for_selector("#card svg polyline")
        assert seen.errors == []
        seen.page.context.close()
    assert sum(pages.estimate(resources, [("big", "last", "none")], {"big": [0, 1]}).values()) > 2e7
