"""Records: canonical bytes with a checksum of their own."""

import json

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actstore import ActstoreError, CorruptError, FormatError
from actstore.format import records
from strategies import JSON


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("records") / "record.json"


def test_bytes_of_a_record():
    assert records.dump({"format": 1, "run": {"model": "Größe"}, "x": [1, 2.5]}) == (
        b'{"format":1,"run":{"model":"Gr\xc3\xb6\xc3\x9fe"},"x":[1,2.5],"crc32c":"7390dbd2"}\n'
    )


def test_the_checksum_is_that_of_the_record_without_it():
    content = records.dump({"format": 1, "run": {}})
    body = content.replace(b',"crc32c":"' + content[-11:-3] + b'"', b"").rstrip(b"\n")
    assert f"{google_crc32c.value(body):08x}" == json.loads(content)["crc32c"]


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda name: name not in ("crc32c", "format")), JSON)
)
def test_round_trip(path, content):
    path.write_bytes(records.dump({"format": 1, **content}))
    found = records.load(path)
    assert found.pop("crc32c")
    assert found == {"format": 1, **content}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"1",
        b'{"format":1}',
        b'{"format":1,"crc32c":"0fb4e832"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_what_is_no_record(path, content):
    path.write_bytes(content)
    with pytest.raises(CorruptError, match="restore it from a copy"):
        records.load(path)


@pytest.mark.parametrize("value", [b"NaN", b'"\\ud800"'])
def test_what_json_reads_but_never_writes(path, value):
    path.write_bytes(b'{"format":1,"x":' + value + b',"crc32c":"00000000"}\n')
    with pytest.raises(CorruptError, match="differ from what was written"):
        records.load(path)


@pytest.mark.parametrize("content", [b'{"format":2}', b'{"format":2,"crc32c":"nonsense","other":[]}\n'])
def test_a_newer_format_is_said_first(path, content):
    path.write_bytes(content)
    with pytest.raises(FormatError, match=r"format 2 is newer than this reader \(format 1\).*pip install --upgrade"):
        records.load(path)


@pytest.mark.parametrize("number", [0, -1, "1", None])
def test_an_unknown_format(path, number):
    path.write_bytes(records.dump({"format": number}))
    with pytest.raises(FormatError, match="not a format this reader knows"):
        records.load(path)


@given(st.data())
def test_every_changed_byte_is_noticed(path, data):
    content = records.dump({"format": 1, "part": "b00000000-00000000", "rows": 12, "by": {"host": "a"}})
    where, new = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 255))
    if content[where] == new:
        return
    path.write_bytes(content[:where] + bytes([new]) + content[where + 1 :])
    with pytest.raises(ActstoreError):
        records.load(path)
