"""Moto's S3 on this machine, for tests, behind the front of `buckets`: another hand's reading of S3's language."""

import atexit
import http.client
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from functools import cache
from urllib.parse import quote, urlsplit

from buckets import Answer, Bucket, Front, ago

SIGNED = "AWS4-HMAC-SHA256 Credential=key/20261130/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
PASSED = ("Range", "If-None-Match", "If-Match", "Content-Type", "x-amz-copy-source")


@cache
def server() -> str:
    """The address of this process's server, which is there until the process ends."""
    words = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    running = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    atexit.register(running.kill)
    assert running.stderr
    for line in running.stderr:
        if found := re.search(r"Running on (\S+)", line):
            threading.Thread(target=running.stderr.read, daemon=True).start()  # what it says of each request
            return urlsplit(found[1]).netloc
    raise AssertionError("moto's server ended")


def answered(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    """What the server answers."""
    line = http.client.HTTPConnection(server(), timeout=60)
    try:
        line.request(method, path, body, {"Authorization": SIGNED, **(headers or {})})
        answer = line.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())
    finally:
        line.close()


class Objects(MutableMapping[str, bytes]):
    """The objects of a bucket of the server, as of a dictionary."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getitem__(self, key: str) -> bytes:
        status, body, _ = answered("GET", self._path(key))
        if status != 200:
            raise KeyError(key)
        return body

    def __setitem__(self, key: str, content: bytes) -> None:
        assert answered("PUT", self._path(key), content)[0] == 200

    def __delitem__(self, key: str) -> None:
        self[key]
        assert answered("DELETE", self._path(key))[0] == 204

    def __iter__(self) -> Iterator[str]:
        text = answered("GET", f"/{self.name}?list-type=2&max-keys=1000")[1].decode()
        assert "<IsTruncated>false" in text
        return iter(re.findall("<Key>(.*?)</Key>", text))

    def __len__(self) -> int:
        return len([*self])

    def __eq__(self, other: object) -> bool:
        return dict(self) == other

    __hash__ = None  # type: ignore[assignment]

    def __or__(self, other: dict[str, bytes]) -> dict[str, bytes]:
        return dict(self) | other

    __ror__ = __or__

    def __ior__(self, other: dict[str, bytes]) -> "Objects":
        self.update(other)
        return self

    def _path(self, key: str) -> str:
        return f"/{self.name}/{quote(key)}"


class Moto(Front):
    """Moto's server behind; its bucket has a name of its own, so that tests do not meet."""

    @classmethod
    @contextmanager
    def kept(cls, bucket: Bucket) -> Iterator[None]:
        """With an empty bucket."""
        bucket.objects = Objects(uuid.uuid4().hex)
        assert answered("PUT", f"/{bucket.objects.name}")[0] == 200
        yield

    def answer(self, method: str, key: str, asked: dict[str, str], body: bytes) -> Answer:  # noqa: ARG002
        """The server's, but for what the bucket is told to be."""
        assert isinstance(self.bucket.objects, Objects)
        leaves = [*([] if self.bucket.ranges else ["Range"]), *(["If-None-Match"] if self.bucket.ignores else [])]
        headers = {name: self.headers[name] for name in PASSED if name in self.headers and name not in leaves}
        query = self.path.partition("?")[2]
        query += f"&max-keys={self.bucket.page}" if method == "LIST" else ""
        path = f"/{self.bucket.objects.name}" + (f"/{quote(key)}" if method not in ("LIST", "POST") else "")
        status, answer, said = answered("GET" if method == "LIST" else method, f"{path}?{query}", body, headers)
        if method == "LIST":
            answer = re.sub(r"<Contents>.*?</Contents>", self._aged, answer.decode(), flags=re.DOTALL).encode()
        kept = {
            name: value
            for name, value in said.items()
            if name.lower() in ("etag", "last-modified", "content-range", "content-type")
        }
        return status, answer, kept

    def _aged(self, entry: re.Match[str]) -> str:
        """An entry of a list, as old as the bucket is told that its object is."""
        found = re.search("<Key>(.*?)</Key>", entry[0])
        hours = self.bucket.hours.get(found[1]) if found else None
        told = f"<LastModified>{ago(hours or 0)}</LastModified>"
        return entry[0] if hours is None else re.sub("<LastModified>.*?</LastModified>", told, entry[0])
