"""A real browser, for tests of pages."""

import os
import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# Without a graphics card, and so that screenshots have pictures in them.
FLAGS = (
    *("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"),
    *("--disable-gpu-rasterization", "--disable-accelerated-2d-canvas"),
)


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
