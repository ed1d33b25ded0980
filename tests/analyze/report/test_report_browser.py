"""The report as it looks in a real browser: wide, narrow, dark, printed, and without the letters it was made for."""

import pytest

import browsing
import knockouts
import labelled
import looking
from actstore.commands.main import run

pytestmark = [*browsing.needed(), pytest.mark.slow]
CUT = """() => [...document.querySelectorAll('.panel svg')].flatMap((svg) => {
  const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number), room = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.right > room.right + 1 || box.left < room.left - 1;
  }).map((text) => text.textContent);
})"""
BEYOND = (
    "() => [...document.querySelectorAll('th, td')].filter((one) => one.offsetParent && "
    "one.getBoundingClientRect().right > innerWidth + 1).map((one) => one.textContent)"
)
BROKEN = """() => [...document.querySelectorAll('.numbers td')].filter((one) => {
  const words = document.createRange();
  words.selectNodeContents(one);
  return /^-?[0-9.e+-]+$/.test(one.textContent) && new Set([...words.getClientRects()].map((box) => box.top)).size > 1;
}).map((one) => one.textContent)"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browsed")
    stores = [looking.make(folder / "s").path, *(knockouts.make_store(folder / one) for one in "kl")]
    assert run(["report", *map(str, stores), "-o", str(folder / "r.html"), "--reference", "chameleon-7b"]) == 0
    return f"file://{folder / 'r.html'}"


@pytest.fixture(scope="module")
def browser():
    with browsing.launched() as started:
        yield started


@pytest.fixture
def page(browser, address):
    opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    errors = []
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(address)
    yield opened
    opened.context.close()
    assert errors == []


@pytest.mark.parametrize("font", ["Liberation Sans", "DejaVu Sans", "DejaVu Sans Mono"])
def test_no_text_of_a_figure_is_cut_in_any_letters(page, font):
    page.add_style_tag(content=f"svg text, svg tspan {{ font-family: '{font}' !important; }}")
    assert page.locator(".panel svg").count() >= 2
    assert page.evaluate(CUT) == []
    page.evaluate("document.querySelectorAll('[textLength]').forEach((one) => one.removeAttribute('textLength'))")
    if font.endswith("Mono"):
        assert page.evaluate(CUT)  # so it is their length that keeps them


@pytest.mark.parametrize("width", [420, 800, 1280])
def test_the_page_fits_its_window(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_no_column_is_lost_on_paper_and_no_number_broken(page):
    page.set_viewport_size({"width": 700, "height": 900})  # of A4, within its margins
    assert page.evaluate(BEYOND)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details[open]").count() >= 2
    assert page.evaluate(BEYOND) == []
    assert page.locator("table.long").count() >= 1  # more columns than stand side by side
    assert page.evaluate(BROKEN) == []


def test_figures_can_be_read_on_a_narrow_page(page):
    page.set_viewport_size({"width": 420, "height": 900})
    drawn = page.evaluate(
        "[...document.querySelectorAll('.panel svg')].map((one) => one.getBoundingClientRect().width / "
        "one.viewBox.baseVal.width)"
    )
    assert min(drawn) > 0.69  # of letters of 10 pixels and more


def test_in_the_dark_what_was_ink_is_light(page):
    page.emulate_media(color_scheme="dark")
    drawn = page.evaluate("getComputedStyle(document.querySelector('.panel svg .role-axis-label text')).fill")
    assert min(int(one) for one in drawn.removeprefix("rgb(").removesuffix(")").split(",")) > 150
    assert page.evaluate("getComputedStyle(document.querySelector('.panel svg > rect')).fill") == "none"


def test_a_name_shows_its_line_alone(page):
    plot = page.locator(".panel svg").first
    names = plot.locator(".named")
    assert names.count() >= 2
    names.first.focus()
    page.keyboard.press("Enter")
    assert names.first.get_attribute("aria-pressed") == "true"
    lines = "[...document.querySelector('.panel svg').querySelectorAll('.mark-line path, .mark-symbol path')]"
    away = page.evaluate(f"{lines}.map((one) => one.classList.contains('away'))")
    assert 0 < sum(away) < len(away)
    names.first.click()
    assert not any(page.evaluate(f"{lines}.map((one) => one.classList.contains('away'))"))


def test_many_stores_have_small_panels_whose_texts_can_be_read(browser, tmp_path):
    """Four in a row on a wide page; what all of them say together has a row of its own."""
    names = ["chameleon-7b", "emu3-gen", "llava-onevision", "pixtral-12b", "janus-1.3b"]
    for name in names:
        labelled.make_store(tmp_path / name, model=name)
        assert run(["overlap", str(tmp_path / name), "-k", "5"]) == 0
        assert run(["cluster", str(tmp_path / name), "--roles", "eoi,image", "-k", "5", "--no-interval"]) == 0
    assert run(["report", *(str(tmp_path / name) for name in names), "-o", str(tmp_path / "r.html")]) == 0
    opened = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    opened.goto(f"file://{tmp_path / 'r.html'}")
    panels = opened.locator(".panels >> nth=0").locator(".panel")
    tops = [panels.nth(i).bounding_box()["y"] for i in range(panels.count())]
    assert [tops.count(top) for top in sorted({*tops})] == [4, 1]
    clusters = opened.locator(".panels >> nth=1").locator(".panel")
    assert (clusters.count(), clusters.nth(0).get_attribute("class")) == (6, "panel whole")
    assert clusters.nth(0).bounding_box()["width"] > 3 * clusters.nth(1).bounding_box()["width"]
    assert opened.evaluate(CUT) == []
    sizes = opened.evaluate(
        "[...document.querySelectorAll('.panels.many .panel:not(.whole) svg text')].map((text) => "
        "parseFloat(text.getAttribute('font-size')) * text.ownerSVGElement.getScreenCTM().a)"
    )
    assert min(sizes) > 7.5
    assert opened.evaluate("document.documentElement.scrollWidth") <= 1280
    opened.context.close()
