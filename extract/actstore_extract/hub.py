"""The Hugging Face hub: where it cannot be reached nobody waits for it, and what its cache holds is taken."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants

__all__ = ["unless_out_of_reach"]

_PATIENCE = 3.0  # seconds


@contextmanager
def unless_out_of_reach() -> Iterator[None]:
    """Inside, the hub is asked only where it can be reached; elsewhere each file of a model would be waited for."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _reachable(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@cache
def _reachable(endpoint: str) -> bool:
    """Whether something answers there; a proxy, where one is set, is taken at its word."""
    if getproxies():
        return True
    url = urlsplit(endpoint)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        with socket.create_connection((url.hostname or "", port), timeout=_PATIENCE):
            return True
    except OSError:
        return False
