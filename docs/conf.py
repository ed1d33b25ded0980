"""How Sphinx builds these pages: `make docs`.

Tutorials, gallery and notebooks are executed beside stores that are made once (stores.py); a cell that fails, or a
warning, ends the build.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
os.environ |= {  # of kernels and their commands: these print as into a file
    "COLUMNS": "100",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "NO_COLOR": "1",
    "OMP_NUM_THREADS": "1",  # threads that wait for each other on a busy machine would cost most of the time
    "TQDM_DISABLE": "1",
}
for name, first in (("PYTHONPATH", HERE), ("PATH", Path(sys.executable).parent)):
    os.environ[name] = os.pathsep.join(filter(None, (str(first), os.environ.get(name))))

from importlib.metadata import version as installed  # noqa: E402
from itertools import groupby  # noqa: E402
from textwrap import dedent, indent  # noqa: E402

import click  # noqa: E402
import stores  # noqa: E402
import tables  # noqa: E402
from docutils.nodes import SkipNode, math_block  # noqa: E402
from latex2mathml.converter import convert  # noqa: E402

from actstore.commands.main import cli  # noqa: E402

project = "actstore"
author = copyright = "the authors of actstore"  # noqa: A001  (Sphinx's own name)
version = release = installed("actstore")
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_click",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "gallery", "shown/*.ipynb", "CONTRIBUTING.md", "SECURITY.md"]
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 4
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 900
nb_merge_streams = True
highlight_language = "text"
suppress_warnings = ["mystnb.unknown_mime_type"]  # Vega-Lite beside each SVG
autodoc_member_order = "bysource"
html_math_renderer = "mathml"
smartquotes = False  # two dashes of an option stay two
html_theme = "pydata_sphinx_theme"
html_title = "actstore"
html_static_path = ["style"]
html_css_files = ["own.css"]
html_show_sourcelink = False
html_theme_options = {
    "secondary_sidebar_items": {"**": ["page-toc"], "reference/models": []},
    "show_nav_level": 2,
    "show_toc_level": 2,
}
html_sidebars = {"papers": [], "demo": [], "real": [], "install": [], "glossary": [], "changelog": []}
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "shown",
    "filename_pattern": r"\.py",
    "image_scrapers": ("drawn.scraper",),
    "reset_modules": (),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "write_computation_times": False,  # a page that asks a network for its table
    "min_reported_time": 10_000,
}

stores.make()

everything = click.Context(cli)
for name in cli.list_commands(everything):  # commands that joined by entry points are not among its own
    command = cli.get_command(everything, name)
    if command is not None:
        cli.add_command(command, name)
cli.epilog = None  # the statuses, of which the page has a table


def filled(_app: object, _name: str, source: list[str]) -> None:
    """A page with what tables.py makes in the place of `% tables.NAME`: headings in it are headings of the page."""
    source[0] = re.sub(r"^% tables\.(\w+)$", lambda match: getattr(tables, match[1])(), source[0], flags=re.MULTILINE)


def escaped(_app: object, _context: object, lines: list[str]) -> None:
    """In the help of a command single stars are no emphasis and FILE:KEY is no address; examples are code."""
    found: list[str] = []
    for kept, group in groupby(lines, lambda line: line.startswith("| ")):
        block = list(group)
        if not kept:
            found += [re.sub(r"(?<!\*)\*(?!\*)|(?<=[A-Z]):(?=[A-Z])", r"\\\g<0>", line) for line in block]
            continue
        block = [line[2:] for line in block]
        found += [block.pop(0), ""] if block[0].endswith(":") else []
        found += [".. code-block:: text", "", *indent(dedent("\n".join(block)), "    ").splitlines(), ""]
    lines[:] = found


def drawn(translator: Any, node: Any) -> None:
    """An equation as MathML, which browsers draw by themselves, without a network."""
    display = "block" if isinstance(node, math_block) else "inline"
    translator.body.append(convert(node.astext(), display=display))
    raise SkipNode


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", inline_renderers=(drawn, None), block_renderers=(drawn, None))
    app.connect("source-read", filled)
    for part in ("description", "options", "arguments", "epilog"):
        app.connect(f"sphinx-click-process-{part}", escaped)
