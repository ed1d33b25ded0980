"""python -m actstore.testing s3://...: kept by our server, and broken where it breaks them."""

import subprocess
import sys

import pytest

import leading
from actstore.errors import ActstoreError
from actstore.testing import far, promises_at
from actstore.testing.known import BrokenPromiseError
from actstore.write import outbox
from buckets import bucket

URL = "s3://b/tries"


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_tried", set())
    with bucket() as found:
        leading.point(monkeypatch, found, tmp_path / "cache")
        yield found


@pytest.mark.slow
def test_all_are_kept_and_nothing_is_left(served, tmp_path):
    found = promises_at(URL, seconds=10)
    assert [(one.what, one.result, one.note) for one in found if one.result != "kept"] == []
    assert {one.promise for one in found} == {"P1", "P2", "P3", "P4", "P5"}
    assert min(one.tried for one in found) >= 1
    assert served.objects == {}
    assert not (tmp_path / "cache").exists()


def test_a_server_that_ignores_conditions_is_told_at_once(served):
    served.ignores = True
    with pytest.raises(ActstoreError, match="this server ignores If-None-Match"):
        promises_at(URL)
    assert served.objects == {}


def test_what_is_broken_is_found(served, monkeypatch):
    """By a server that ignores conditions once it is trusted, and one whose lists are late."""
    served.ignores = True
    with pytest.raises(BrokenPromiseError, match="of 16 who created one object at once, 16 succeeded"):
        next(far.creates(URL))
    served.ignores = False
    next(far.creates(f"{URL}/other"))
    monkeypatch.setattr(far.objects.Objects, "listed", lambda *_: {})
    with pytest.raises(BrokenPromiseError, match="not listed right after"):
        next(far.listings(URL))


def test_trials_of_one_try(served):
    for trial in (far.listings, far.damage, far.refusals):
        next(trial(f"{URL}/{trial.__name__}"))


def test_damage_that_is_not_found_is_broken(served, monkeypatch):
    monkeypatch.setattr(far, "_is_found", lambda _: False)
    with pytest.raises(BrokenPromiseError, match="was harmed, and verify found nothing"):
        next(far.damage(f"{URL}/d"))


def test_a_place_that_is_none_is_usage():
    command = [sys.executable, "-m", "actstore.testing", "ftp://x/y"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "ftp://: not a place of stores" in done.stderr
