"""The documentation is built, and all that it shows is executed, without a warning: what `make docs` does."""

import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import actstore_analyze

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("measure", actstore_analyze.measures())
def test_the_gallery_has_a_figure_of_every_measure(measure):
    every = "".join(one.read_text(encoding="utf-8") for one in (ROOT / "docs" / "gallery").glob("plot_*.py"))
    assert f".measure.{measure}(" in every


def test_every_page_is_named_where_pages_are_listed():
    """Sphinx says only of a whole build that a page is in no list."""
    for folder in ("tutorials", "howto", "reference"):
        own = {page.stem for page in (ROOT / "docs" / folder).iterdir() if page.suffix in {".md", ".ipynb"}} - {"index"}
        listed = (ROOT / "docs" / folder / "index.md").read_text(encoding="utf-8").split("```")[1].splitlines()
        assert own == {line for line in listed if line and not line.startswith((":", "{"))}


def test_it_says_one_date_of_the_newest_version():
    cited = re.search(r'date-released: "(.*)"', (ROOT / "CITATION.cff").read_text(encoding="utf-8"))[1]
    newest = re.search(r"^## (\S+) \((.*)\)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest.groups() == (version("actstore"), cited)


@pytest.mark.slow
def test_it_is_built_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="pip install -e '.[docs]'")
    words = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "tutorials" / "gate.html").is_file()
