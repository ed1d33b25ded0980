"""What all tests share: one thread for tiny models, the same examples in every run of continuous integration."""

import gc
import os

from hypothesis import settings

# On a busy machine two threads of a tiny model wait for each other a hundred times longer than they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


def pytest_collection_finish() -> None:
    """Take what was imported out of all later collections of garbage: torch and transformers are many objects."""
    gc.collect()
    gc.freeze()
