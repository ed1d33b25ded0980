"""The promises on Ceph's own gateway, which many universities run; where it is installed."""

import pytest

import actstore
import ceph
import making
from actstore.maintain.pulling import pull
from actstore.maintain.pushing import push
from actstore.testing import promises_at
from actstore.write import outbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ceph.is_installed(), reason="apt-get install radosgw ceph-mon ceph-osd"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with ceph.gateway(tmp_path_factory.mktemp("ceph"), "mine") as found:
        yield found


@pytest.fixture(autouse=True)
def pointed(address, tmp_path, monkeypatch):
    monkeypatch.setattr(outbox, "_tried", set())
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": ceph.KEY,
        "AWS_SECRET_ACCESS_KEY": ceph.SECRET,
        "AWS_REGION": ceph.REGION,
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)


def test_the_promises_are_kept():
    found = promises_at("s3://mine/tries", seconds=30)
    assert [(one.what, one.note) for one in found if one.result != "kept"] == []


def test_a_store_goes_there_and_back(tmp_path):
    made = making.store(tmp_path / "s", 2)
    push(made.path, "s3://mine/s")
    there = actstore.open("s3://mine/s")
    assert there.state == made.state
    assert pull("s3://mine/s", tmp_path / "copy").state == made.state
    assert {file.name for file in making.files(tmp_path / "copy")} == {file.name for file in making.files(made.path)}
