"""What somebody does who has just run the demo: as a script, from the command to the file that is sent."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

import actstore
import browsing
from actstore.commands.main import run
from browsing import READY, Seen

if not os.environ.get("CI"):
    pytest.importorskip("starlette")
    pytest.importorskip("torch")
pytestmark = [*browsing.needed(), pytest.mark.slow]

MINUTE = 60  # seconds
HELD_OUT = "from rows where split = 'test'"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo") / "fusion"
    assert run(["extract", "digits-fusion", str(path), "--set", "samples.split='test'"]) == 0
    return actstore.open(path)


@pytest.fixture
def served(store):
    """The address that the command prints, while it runs."""
    words = ["explore", str(store.path), HELD_OUT, "--roles", "eoi,last", "--no-browser"]
    process = subprocess.Popen(
        [sys.executable, "-m", "actstore", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[1]


def test_in_a_minute_a_digit_taken_for_another_is_found_understood_and_sent(store, served, tmp_path):
    """The surest mistake: what it was taken for is what its neighbours are, and where it looked is on its picture."""
    wrong = store.sql(
        "from samples where next_token <> label and status = 'ok' order by next_token_probability desc limit 1"
    ).row(0, named=True)
    with browsing.launched() as browser:
        seen = Seen(browser, (served.partition("?")[0], "data:", "blob:"))
        page, began = seen.page, time.monotonic()
        page.goto(served)
        page.wait_for_selector(READY)
        page.fill("#where", "next_token <> label")
        page.press("#where", "Enter")
        page.wait_for_function("document.querySelector('#said').textContent.match(/^\\d+ of 449 points/)")
        page.wait_for_selector(READY)
        number = page.evaluate(f"explorer.first.table.sample_id.indexOf('{wrong['sample_id']}')")
        assert number in page.evaluate("explorer.first.kept")
        seen.click(number, wrong["sample_id"])
        page.wait_for_selector("#card svg polyline")
        assert wrong["next_token"] == page.inner_text("#card .bars span >> nth=0")
        assert "nothing reads layer 6, the output: go to layer 5" in page.inner_text("#scale-said")
        page.focus(".plot")
        page.keyboard.press("ArrowLeft")
        page.wait_for_function("document.querySelector('#scale-said').textContent.startsWith('where the text looks')")
        assert max(seen.alpha()) > 200
        page.wait_for_selector("#card h3 >> text=nearest at layer 5")
        near = page.locator("#card .thumbs >> nth=0").locator(".thumb span").all_inner_texts()
        assert near.count(wrong["next_token"]) > 2  # of 14; by chance 1.4
        with page.expect_download() as download:
            page.click("#file")
        download.value.save_as(tmp_path / "sent.html")
        took = time.monotonic() - began
        sent = Seen(browser, ("file:", "data:", "blob:"), offline=True)
        sent.page.goto((tmp_path / "sent.html").as_uri())
        sent.page.wait_for_selector(READY)
        assert sent.page.inner_text("#card h2") == wrong["sample_id"]
        assert sent.page.inner_text("#at") == "5"
        assert (
            re.match(r"\d+ of 449 points", sent.page.inner_text("#said"))[0]
            == re.match(r"\d+ of 449 points", page.inner_text("#said"))[0]
        )
        assert (seen.errors, seen.elsewhere, sent.errors, sent.elsewhere) == ([], [], [], [])
    assert took < MINUTE
