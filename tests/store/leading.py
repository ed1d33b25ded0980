"""Stores at URLs, for tests: a bucket of this machine, as the environment says where it is."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actstore.maintain.pushing import push
from actstore.read import mirror
from buckets import Bucket, bucket

SECRET = "sEcReT-kEy"
URL = "s3://b/runs/s"


def point(monkeypatch: pytest.MonkeyPatch, bucket: Bucket, cache: Path) -> None:
    """Have the environment lead to a bucket, with an empty cache."""
    for name, value in {
        "AWS_ENDPOINT_URL": bucket.url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "XDG_CACHE_HOME": str(cache),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(mirror, "SMALL", 0)  # shards of tests are small, and would be fetched whole


def forget(cache: Path) -> None:
    """Empty the cache."""
    shutil.rmtree(cache, ignore_errors=True)


def fill(bucket: Bucket, folder: Path, prefix: str = "runs/s") -> None:
    """Have the files of a store in a bucket, as a tool that knows nothing of stores copies them."""
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.objects[f"{prefix}/{file.relative_to(folder).as_posix()}"] = file.read_bytes()


@contextmanager
def pushed(monkeypatch: pytest.MonkeyPatch, folder: Path, cache: Path) -> Iterator[Bucket]:
    """A bucket with a store at URL, as `actstore push` leaves it; the environment leads there."""
    with bucket() as found:
        point(monkeypatch, found, cache)
        push(folder, URL)
        found.took()
        yield found
