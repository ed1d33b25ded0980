"""The README's commands, and its Python and that of the how-tos, run as they stand, in order, in one folder.

The first third of the scans is all that there are.
"""

import re
import shlex
from pathlib import Path

import pytest

from actstore.commands import main
from actstore_extract.samples import digits

ROOT = Path(__file__).parent.parent
SCANS = 600
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "howto").glob("*.md"))]


def commands() -> list[list[str]]:
    """Arguments of every `$ actstore ...` in a console block; an open quotation or a backslash goes on below."""
    found = []
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        lines = iter(block.splitlines())
        for line in lines:
            if line.startswith("$ "):
                while line.endswith("\\") or line.count('"') % 2:
                    line = f"{line.rstrip(chr(92))} {next(lines)}"
                found.append(shlex.split(line)[2:])
    return found


@pytest.fixture(autouse=True)
def few(monkeypatch):
    every = digits.scans()
    first = digits.Scans(*(of_each[:SCANS] for of_each in (every.pixels, every.labels, every.split)))
    monkeypatch.setattr(digits, "scans", lambda: first)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def test_the_tour_has_commands():
    used = {arguments[0] for arguments in commands()}
    assert used >= {"extract", "info", "query", "overlap", "verify", "report", "export"}


def test_commands(folder, monkeypatch, capfd):
    monkeypatch.chdir(folder)
    for arguments in commands():
        assert main.run(arguments) == 0, (arguments, capfd.readouterr().err)
    assert (folder / "demo" / "report.html").stat().st_size > 10_000


BLOCKS = {
    f"{page.name}-{number}": block
    for page in PAGES
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
}


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS)
def test_python(folder, monkeypatch, block):
    monkeypatch.chdir(folder)
    for package, used in {"xarray": ".xarray(", "lance": "import lance", "ray": "import ray"}.items():
        if used in block:
            pytest.importorskip(package)
    exec(compile(block, "a page", "exec"), {})
