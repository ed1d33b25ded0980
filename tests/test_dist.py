"""What would be published: built from the checkout, installed into an environment of its own, used there."""

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


def ran(*words: str | Path, cwd: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, words)], cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist and the wheel made of it; left in DIST where that is set."""
    out = Path(os.environ.get("DIST") or tmp_path_factory.mktemp("dist"))
    ran(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=ROOT)
    (sdist,) = out.glob(f"actstore-{VERSION}.tar.gz")
    (wheel,) = out.glob(f"actstore-{VERSION}-*.whl")
    return sdist, wheel


def test_the_sdist_has_what_a_packager_needs(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = ["pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "Makefile", "docs/conf.py"]
    assert names >= {*wanted, "tests/test_dist.py", ".ci/constraints.txt", ".ci/commit.py", "actstore/commit.txt"}


def test_the_wheel_has_all_that_is_read(built):
    """Every file of the packages that git has, and no more than the commit beside."""
    with zipfile.ZipFile(built[1]) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = ran("git", "ls-files", "actstore", "extract/actstore_extract", "analyze/actstore_analyze", cwd=ROOT)
    packaged = {name.removeprefix("extract/").removeprefix("analyze/") for name in tracked.splitlines()}
    assert names == packaged | {"actstore/commit.txt"}


def test_it_works_in_an_environment_of_its_own(built, tmp_path):
    ran(sys.executable, "-m", "venv", tmp_path / "env", cwd=tmp_path)
    bin_ = tmp_path / "env" / "bin"
    pinned = ROOT / ".ci" / "constraints.txt"
    ran(bin_ / "python", "-m", "pip", "install", "-q", "-c", pinned, f"{built[1]}[extract,analyze]", cwd=tmp_path)
    commit = ran("git", "-C", ROOT, "rev-parse", "--short=12", "HEAD", cwd=tmp_path).strip()
    assert ran(bin_ / "actstore", "--version", cwd=tmp_path).strip() == f"actstore, version {VERSION} (commit {commit})"
    ran(bin_ / "actstore", "extract", "digits-fusion", "store", "--set", "samples.limit=40", cwd=tmp_path)
    ran(bin_ / "actstore", "overlap", "store", "-k", "5", "--figure", "overlap.png", cwd=tmp_path)
    ran(bin_ / "actstore", "report", "store", "-o", "report.html", cwd=tmp_path)
    ran(bin_ / "actstore", "verify", "store", cwd=tmp_path)
    assert (tmp_path / "overlap.png").stat().st_size > 10_000
