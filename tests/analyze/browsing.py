"""A real browser, for tests of pages."""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without a graphics card, and so that screenshots have pictures in them.
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--disable-gpu-rasterization", "--disable-accelerated-2d-canvas", "--disable-gpu-compositing"),
)

AROUND = [(0.1, 0.1), (0.5, 0.1), (0.9, 0.1), (0.9, 0.5), (0.9, 0.9), (0.5, 0.9), (0.1, 0.9), (0.1, 0.5), (0.1, 0.1)]
READY = "body[data-ready=yes]"  # of the explorer, when all is drawn


def needed():
    """Marks of a module that drives it: continuous integration installs both, and fails where they are missing."""
    if os.environ.get("CI"):
        return []
    pytest.importorskip("playwright", reason="the browser is driven by playwright: pip install playwright")
    return [pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")]


@contextmanager
def launched():
    """The browser, while it runs."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


class Seen:
    """A page in a context of its own; what went wrong in it, and whom else it asked."""

    def __init__(self, browser, own, **options):
        self.page = browser.new_context(viewport={"width": 1300, "height": 850}, **options).new_page()
        self.page.set_default_timeout(60_000)
        self.frame = self.page.main_frame  # that the explorer is in
        self.errors, self.elsewhere = [], []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: None if asked.url.startswith(own) else self.elsewhere.append(asked.url))

    def at(self, point, panel="first"):
        """Where a point of a panel of the explorer is on the screen."""
        x, y = self.frame.evaluate(f"explorer.{panel}.scatter.getScreenPosition({point})")
        box = self._plot(panel)
        return box["x"] + x, box["y"] + y

    def click(self, point, sample, panel="first"):
        """Click a point that lies still, once, and wait for the card of its sample."""
        self.frame.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.frame.wait_for_function(f"!explorer.{panel}.laying")
        self.page.mouse.click(*self.at(point, panel))
        self.frame.wait_for_selector(f"#card h2 >> text={sample}")

    def lasso(self, places, panel="first"):
        """Draw around places of a panel, shares of its width and height, and wait for what it selects."""
        box = self._plot(panel)
        ring = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in places]
        self.page.keyboard.down("Shift")
        self.page.mouse.move(*ring[0])
        self.page.mouse.down()
        for place in ring:
            self.page.mouse.move(*place, steps=4)
            self.page.wait_for_timeout(30)
        self.page.mouse.up()
        self.page.keyboard.up("Shift")
        self.frame.wait_for_selector("#selection:not([hidden])")
        return self.frame.evaluate("explorer.selected.points")

    def _plot(self, panel):
        return self.frame.locator(f".plot >> nth={['first', 'second'].index(panel)}").bounding_box()

    def alpha(self):
        """How strongly each cell of the picture is painted, row after row, but for the point's own."""
        return self.page.evaluate(
            "(() => { const c = document.querySelector('.pic canvas'); const d = c.getContext('2d')"
            ".getImageData(0, 0, c.width, c.height).data; return [...d].filter((_, i) => i % 4 === 3); })()"
        )
