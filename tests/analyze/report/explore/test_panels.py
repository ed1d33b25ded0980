"""Two panels of the explorer, linked by sample: role by role, store by store, condition by condition."""

import json
import os
from base64 import b64encode

import pytest

import besides
import browsing
from actstore.errors import ActstoreError
from actstore_analyze import explore
from actstore_analyze.neighbors import nearest
from actstore_analyze.report.explore import page as pages
from actstore_analyze.report.explore.resources import Resources
from browsing import AROUND, READY, Seen
from served import TOKEN, serving

if not os.environ.get("CI"):
    pytest.importorskip("starlette")
pytestmark = browsing.needed()

SHALLOW, DEEP = (0, 1, 2, 3, 4), (0, 2, 4, 6, 8, 10)
OWN, THEIRS = range(30), range(4, 40)
BLOCKED = "eoi-knockout"


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """One of four blocks, under two conditions, and one of twelve that keeps every second layer."""
    folder = tmp_path_factory.mktemp("besides")
    conditions = ("none", BLOCKED)
    shallow = besides.make(
        folder / "shallow", layers=SHALLOW, depth=4, conditions=conditions, roles=("eoi", "last", "image")
    )
    return [
        shallow,
        besides.make(folder / "deep", layers=DEEP, depth=12, samples=THEIRS, model="other", without=["cat"]),
    ]


@pytest.fixture(scope="module")
def browser():
    with browsing.launched() as started:
        yield started


@pytest.fixture(scope="module")
def address(stores):
    with serving(Resources(stores)) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def opened(browser, address):
    """The explorer at a state; nothing goes wrong in it, and it asks nobody else."""
    found = []

    def go(state):
        seen = Seen(browser, (address, "data:", "blob:"))
        seen.page.goto(f"{address}?token={TOKEN}#{state}")
        seen.page.wait_for_selector(READY)
        found.append(seen)
        return seen

    yield go
    for seen in found:
        seen.page.context.close()
        assert (seen.errors, seen.elsewhere) == ([], [])


def marked(page, panel):
    """The points of a panel that are marked as chosen."""
    return sorted(page.evaluate(f"explorer.{panel}.scatter.get('selectedPoints')"))


def shown(page, panel):
    """The points of a panel that are to be seen."""
    return page.evaluate(f"explorer.{panel}.kept")


def said_below(page, panel):
    """What stands below a panel."""
    return page.locator(".note").all_inner_texts()[["first", "second"].index(panel)]


def test_what_is_chosen_and_pointed_at_in_one_panel_is_marked_in_the_other(opened, browser, address, tmp_path):
    """Role by role: click, look, point, go to another layer, open the link elsewhere, send the file."""
    seen = opened("store=tiny&role=eoi&layer=2")
    page = seen.page
    page.click("#beside")
    page.wait_for_selector(f"{READY} .panel >> nth=1")
    page.locator("select.role >> nth=1").select_option("last")
    page.locator("select.store >> nth=1").select_option("tiny")
    page.wait_for_selector(READY)
    page.mouse.move(*seen.at(8))
    page.wait_for_selector(".tip:not([hidden]) >> text=s08")
    ring = page.locator(".panel >> nth=1").locator(".ring")
    assert ring.count() == 1
    x, y = page.evaluate("explorer.second.scatter.getScreenPosition(8)")
    assert [float(ring.get_attribute(name)) for name in ("cx", "cy")] == pytest.approx([x, y])
    seen.click(8, "s08")
    page.wait_for_function("document.querySelectorAll('.marks polyline').length === 2")
    assert (marked(page, "first"), marked(page, "second")) == ([8], [8])
    own, theirs = (nearest(besides.vectors(OWN, role, "none", SHALLOW)[2], 14).indices[8] for role in ("eoi", "last"))
    page.wait_for_selector(f"#card h3 >> text=role last, layer 2 ({len({*own} & {*theirs})} of 14 are samples")
    page.focus(".plot >> nth=0")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#card h3 >> text=role last, layer 3")
    other = opened(page.url.partition("#")[2]).page
    assert other.inner_text("#at") == "3"
    assert other.inner_text("#card h2") == "s08"
    assert (marked(other, "first"), marked(other, "second")) == ([8], [8])
    with page.expect_download() as download:
        page.click("#file")
    download.value.save_as(tmp_path / "sent.html")
    alone = Seen(browser, ("file:", "data:", "blob:"), offline=True)
    alone.page.goto((tmp_path / "sent.html").as_uri())
    alone.page.wait_for_selector(READY)
    assert [alone.page.evaluate(f"explorer.{one}.role") for one in ("first", "second")] == ["eoi", "last"]
    assert (marked(alone.page, "first"), marked(alone.page, "second")) == ([8], [8])
    alone.click(11, "s11", "second")
    assert marked(alone.page, "first") == [11]
    assert (alone.errors, alone.elsewhere) == ([], [])
    alone.page.context.close()


def test_the_linked_point_in_the_other_panel_can_be_clicked_itself(opened):
    """It is marked already, of which the library says nothing."""
    seen = opened(f"store=tiny&role=eoi&layer=2&store2=tiny&role2=eoi&condition2={BLOCKED}")
    seen.click(8, "s08")
    assert marked(seen.page, "second") == [8]
    seen.click(8, "s08 under eoi-knockout", "second")
    assert (marked(seen.page, "first"), marked(seen.page, "second")) == ([8], [8])
    box = seen.page.locator(".plot >> nth=0").bounding_box()
    seen.page.mouse.click(box["x"] + box["width"] - 3, box["y"] + 3)  # where no point is
    assert (marked(seen.page, "first"), marked(seen.page, "second")) == ([8], [8])


def test_layers_play_on_when_the_second_panel_is_closed(opened):
    seen = opened("store=tiny&role=eoi&layer=4&store2=tiny&role2=last")
    seen.page.click("#play")
    seen.page.evaluate(
        "async () => { const frame = () => new Promise(requestAnimationFrame);"
        " while (explorer.layer !== 1 || !explorer.second.laying) await frame(); $('beside').click(); }"
    )
    seen.page.wait_for_function("document.querySelector('#at').textContent === '4'", timeout=30_000)
    seen.page.wait_for_function("document.querySelector('#said').textContent === '30 of 30 points'")


@pytest.mark.slow
def test_a_path_ends_where_the_point_is_however_far_one_is_zoomed_in(opened):
    seen = opened("store=tiny&role=eoi&layer=3&role2=last&store2=tiny")
    page = seen.page
    seen.click(4, "s04")
    page.wait_for_function("document.querySelectorAll('.marks polyline').length === 2")
    for zoom in (0, -400):
        for i, panel in enumerate(("first", "second")):
            page.mouse.move(*seen.at(4, panel))
            page.mouse.wheel(0, zoom)
            page.wait_for_timeout(300)
            drawn = page.locator(".marks polyline").nth(i).get_attribute("points").split()
            at = [float(one) for one in drawn[3].split(",")]
            assert at == pytest.approx(page.evaluate(f"explorer.{panel}.scatter.getScreenPosition(4)"), abs=0.5)


def test_layers_of_a_model_of_another_depth_are_as_deep_and_that_is_said(opened):
    seen = opened("store=tiny&role=eoi&layer=2&store2=other&role2=eoi")
    page = seen.page
    assert "layer 6 of 12: as deep as layer 2 of 4" in said_below(page, "second")
    assert "26 of 36 samples are on the left, too" in said_below(page, "second")
    page.focus(".plot >> nth=0")
    for layer, deep in ((3, 8), (4, 10)):  # 9 and 12 are not kept
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"document.querySelector('#at').textContent === '{layer}'")
        page.wait_for_function(
            "explorer.second.drawn && document.querySelectorAll('.note')[1].textContent.includes"
            f"('layer {deep} of 12: the nearest to the depth of layer {layer} of 4')"
        )
    page.wait_for_function("!explorer.second.laying")
    seen.click(35, "s39", "second")  # which is in no other panel
    page.wait_for_selector("#card p >> text=not in the other panel")
    assert marked(page, "first") == []
    page.click("#swap")
    page.wait_for_selector(READY)
    assert page.evaluate("[explorer.first.title, explorer.layer]") == ["other", 10]
    page.wait_for_function("explorer.chosen && explorer.chosen.panel === explorer.first")
    assert page.inner_text("#card h2") == "s39"
    assert "layer 3 of 4: the nearest to the depth of layer 10 of 12" in said_below(page, "second")


@pytest.mark.slow
def test_what_the_first_panel_shows_chooses_the_samples_of_the_second(opened):
    """By SQL that only the first one's store is asked, and by the legend."""
    page = opened("store=tiny&role=eoi&layer=2&store2=other&role2=last&where=label+%3D+%27cat%27").page
    cats = [i for i in OWN if i % 3 == 0 and i % 7 != 6]
    assert shown(page, "first") == cats
    assert shown(page, "second") == [i - 4 for i in cats if i >= 4]
    page.fill("#where", "")
    page.press("#where", "Enter")
    page.wait_for_function("explorer.first.kept.length === 30")
    assert shown(page, "second") == [*range(36)]
    page.locator(".entry >> text=dog").dblclick()
    page.wait_for_function("explorer.first.kept.length < 30")
    dogs = [i for i in OWN if i % 3 == 1 and i % 7 != 6]
    assert (shown(page, "first"), shown(page, "second")) == (dogs, [i - 4 for i in dogs if i >= 4])
    page.locator(".entry >> text=dog").dblclick()
    page.wait_for_function("explorer.first.kept.length === 30")


def test_a_value_has_one_colour_in_both_panels_and_a_point_without_a_label_has_none(opened):
    """The right store has no cats: its codes are others."""
    seen = opened("store=tiny&role=eoi&layer=2&store2=other&role2=eoi")
    page = seen.page
    assert page.locator(".legend >> nth=0").locator(".entry").all_inner_texts() == ["cat", "dog", "none", "owl"]
    colours = "Array.from({length: explorer.%s.table.n}, (_, i) => colourOf(explorer.%s.column(), i))"
    own, theirs = (page.evaluate(colours % (one, one)) for one in ("first", "second"))
    grey = page.evaluate("GREY")
    assert [i for i in OWN if own[i] == grey] == [6, 13, 20, 27]
    assert len({*own}) == 4
    assert [grey if i % 3 == 0 else own[i] for i in OWN[4:]] == theirs[:26]
    page.mouse.move(*seen.at(13))
    page.wait_for_selector(".tip >> text=s13 · none")
    seen.click(13, "s13")
    assert "label" not in page.locator("#card dt").all_inner_texts()
    page.select_option("#colour", "size")
    page.wait_for_function("explorer.first.column().numbers && explorer.second.column().numbers")
    own, theirs = (page.evaluate(colours % (one, one)) for one in ("first", "second"))
    assert own[4:] == theirs[:26]


@pytest.mark.slow
def test_a_token_under_another_condition_is_the_same_token(opened):
    seen = opened(f"store=tiny&role=image&layer=2&store2=tiny&role2=image&condition2={BLOCKED}")
    page = seen.page
    seen.click(9, "s04")  # its second
    assert marked(page, "second") == [9]
    page.evaluate("explorer.select(explorer.second, [2, 3, 4])")
    assert marked(page, "first") == [2, 3, 4]
    page.wait_for_selector("#selection >> text=3 selected, 3 in the other panel")
    page.locator("select.role >> nth=1").select_option("last")
    page.wait_for_selector(READY)
    seen.click(4, "s04 under eoi-knockout", "second")
    assert marked(page, "first") == [8, 9]
    page.wait_for_selector("#card p >> text=2 points of this sample in the other panel")


@pytest.mark.slow
def test_a_lasso_in_the_second_panel_marks_the_first_and_one_panel_is_enough_again(opened):
    seen = opened("store=tiny&role=eoi&layer=0&store2=tiny&role2=last")
    page = seen.page
    chosen = sorted(seen.lasso(AROUND, "second"))
    assert len(chosen) > 15
    assert marked(page, "first") == marked(page, "second") == chosen
    page.click("#beside")
    page.wait_for_selector(READY)
    assert page.locator(".panel").count() == 1
    assert "store2" not in page.url


@pytest.mark.slow
def test_a_file_of_several_stores_offers_what_is_in_it(browser, stores, tmp_path):
    file = tmp_path / "page.html"
    explore(stores, roles="eoi").save(file)
    seen = Seen(browser, ("file:", "data:", "blob:"), offline=True)
    seen.page.goto(file.as_uri())
    seen.page.wait_for_selector(READY)
    seen.page.click("#beside")
    seen.page.wait_for_selector(f"{READY} .panel >> nth=1")
    assert seen.page.locator("select.store >> nth=1").input_value() == "other"
    assert seen.page.locator("select.role >> nth=1").locator("option").all_inner_texts() == ["eoi"]
    assert not seen.page.locator(".of-condition >> nth=1").is_visible()
    assert (seen.errors, seen.elsewhere) == ([], [])
    seen.page.context.close()


@pytest.mark.slow
def test_a_widget_says_of_which_store_the_selected_rows_are(browser, stores, tmp_path):
    pytest.importorskip("anywidget")
    widget = explore(stores, roles=["eoi"]).widget()
    module = "data:text/javascript;base64," + b64encode(pages.static("widget.js").encode()).decode()
    said = json.dumps(widget.page).replace("<", "\\u003c")
    (tmp_path / "cell.html").write_text(
        f"<!doctype html><body><script>const kept = {{page: {said}}};"
        "const model = {get: (name) => kept[name], set: (name, value) => { kept[name] = value; },"
        " save_changes: () => {}};"
        f"</script><script type=module>import made from '{module}';made.render({{model, el: document.body}});</script>"
    )
    seen = Seen(browser, ("file:", "data:", "blob:", "about:"), offline=True)
    seen.page.goto((tmp_path / "cell.html").as_uri())
    seen.page.frame_locator("iframe").locator(READY).wait_for()
    seen.frame = inside = seen.page.frames[1]
    inside.click("#beside")
    inside.wait_for_selector(f"{READY} .panel >> nth=1")
    assert inside.evaluate("[explorer.second.title, document.querySelector('#said').textContent]") == [
        "other",
        "30 of 30 points",
    ]
    for title, panel in (("other", "second"), ("tiny", "first")):
        if panel == "second":
            chosen = seen.lasso(AROUND, panel)
        else:
            chosen = [7]
            seen.click(7, "s07")
        seen.page.wait_for_function(f"kept.store === '{title}' && kept.row_ids.length === {len(chosen)}")
        widget.store, widget.row_ids = seen.page.evaluate("[kept.store, kept.row_ids]")
        ids = besides.names(THEIRS if panel == "second" else OWN)
        assert widget.selected["sample_id"].to_list() == [ids[i] for i in sorted(chosen)]
    assert (seen.errors, seen.elsewhere) == ([], [])
    seen.page.context.close()
    widget.store = "another"
    with pytest.raises(ActstoreError, match="the page is about tiny, other, not about another"):
        _ = widget.selected
