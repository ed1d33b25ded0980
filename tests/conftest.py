"""What all tests share: one thread for tiny models, the same examples in every run of continuous integration."""

import gc
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# On a busy machine two threads of a tiny model wait for each other a hundred times longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_addoption(parser: pytest.Parser) -> None:
    """--moto: buckets of tests are kept by moto's S3 server."""
    parser.addoption("--moto", action="store_true", help="have moto's server keep the buckets of tests")


def pytest_configure(config: pytest.Config) -> None:
    """Who keeps the buckets of tests."""
    if config.getoption("--moto"):
        import buckets
        import motos

        buckets.Front.usual = motos.Moto


def pytest_collection_finish() -> None:
    """Take what was imported out of all later collections of garbage: torch and transformers are many objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system of its own, of a size such as 1M; for root."""
    folder = tmp_path / "mounted"

    def mount(size: str) -> Path:
        folder.mkdir()
        if subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True
        ).returncode:
            pytest.skip("mounting needs root")
        return folder

    yield mount
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
