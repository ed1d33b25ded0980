"""Buckets on this machine, for tests: enough of S3's language, or moto behind it, what goes wrong, and a count."""

import re
import threading
from abc import abstractmethod
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

REFUSALS = {
    403: "AccessDenied",
    404: "NoSuchKey",
    409: "ConditionalRequestConflict",
    412: "PreconditionFailed",
    416: "InvalidRange",
    429: "TooManyRequests",
    500: "InternalError",
    503: "SlowDown",
}
Request = tuple[str, str]  # method and key; LIST and a prefix
Answer = tuple[int, bytes, dict[str, str]]


@dataclass
class Fault:
    """What goes wrong with `times` requests of a method whose key has this in it.

    kind: a status; `cut` or `flip` a body; `lost`: done, and the answer never comes.
    """

    kind: int | str
    method: str = "GET"
    key: str = ""
    times: int = 1


@dataclass
class Bucket:
    """Objects by key; `page` of them are listed at once. ignores: whether conditions of a PUT are.

    tag: of an object's bytes, without quotes; as S3 has it where nothing is encrypted. Not of moto.
    """

    name: str
    url: str = ""
    objects: MutableMapping[str, bytes] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    page: int = 1000
    ignores: bool = False
    ranges: bool = True  # whether stretches of an object are sent
    said: list[str] = field(default_factory=list)  # headers of requests
    hours: dict[str, float] = field(default_factory=dict)  # since objects were put; none where nothing is said
    tag: Callable[[bytes], str] = lambda content: md5(content).hexdigest()
    began: datetime = field(default_factory=lambda: datetime.now(UTC))  # when all was put, but for `hours`

    def took(self) -> list[Request]:
        """The requests since this was asked last."""
        found = self.requests[:]
        self.requests.clear()
        return found


@contextmanager
def bucket(name: str = "b", behind: "type[Front] | None" = None) -> Iterator[Bucket]:
    """A bucket of this name that is served at `url`, by `behind`; without it by Memory, or as `--moto` has it."""
    made = Bucket(name)

    class Handler(behind or Front.usual):
        bucket = made

    with Handler.kept(made), served(Handler) as made.url:
        yield made


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of this machine, by its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    serving.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        serving.join()
        server.server_close()


class Front(BaseHTTPRequestHandler):
    """What a bucket's clients meet: it counts, does wrong what is asked for, and leaves the rest to who is behind."""

    usual: "type[Front]"
    bucket: Bucket
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @classmethod
    @contextmanager
    def kept(cls, bucket: Bucket) -> Iterator[None]:  # noqa: ARG003
        """What is behind has the bucket."""
        yield

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._serve("GET")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def _serve(self, method: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        url = urlsplit(self.path)
        name, _, key = unquote(url.path).lstrip("/").partition("/")
        asked = {name: values[0] for name, values in parse_qs(url.query, keep_blank_values=True).items()}
        if "list-type" in asked:
            method, key = "LIST", asked.get("prefix", "")
        self.bucket.requests.append((method, key))
        self.bucket.said.append(str(self.headers))
        fault = next((f for f in self.bucket.faults if f.times and f.method == method and f.key in key), None)
        if fault:
            fault.times -= 1
        if fault and isinstance(fault.kind, int):
            return self._refuse(fault.kind)
        if name != self.bucket.name:
            return self._answer(404, b"<Error><Code>NoSuchBucket</Code></Error>")
        status, answer, headers = self.answer(method, key, asked, body)
        if fault and fault.kind == "lost":
            self.close_connection = True
            return None
        whole = len(answer)
        if fault and fault.kind == "cut":
            answer, self.close_connection = answer[: whole // 2], True
        if fault and fault.kind == "flip":
            answer = answer[: whole // 2] + bytes([answer[whole // 2] ^ 1]) + answer[whole // 2 + 1 :]
        return self._answer(status, answer, whole, **headers)

    def _refuse(self, status: int) -> None:
        self._answer(status, f"<Error><Code>{REFUSALS[status]}</Code></Error>".encode())

    def _answer(self, status: int, body: bytes = b"", whole: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if whole is None else whole))
        with suppress(ConnectionError):  # who asked may have gone
            self.end_headers()
            self.wfile.write(body)

    @abstractmethod
    def answer(self, method: str, key: str, asked: dict[str, str], body: bytes) -> Answer:
        """The status, the body and the headers of an answer: by who is behind."""


class Memory(Front):
    """Objects in a dictionary."""

    def answer(self, method: str, key: str, asked: dict[str, str], body: bytes) -> Answer:
        """As S3 would."""
        done: Answer = getattr(self, f"_{method.lower()}")(key, asked, body)
        return done

    def _get(self, key: str, _asked: dict[str, str], _body: bytes) -> Answer:
        if key not in self.bucket.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        content = self.bucket.objects[key]
        headers = {"ETag": self._tag(content), "Last_Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if not (asked and self.bucket.ranges):
            return 200, content, headers
        first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
        if first > last:
            return 416, b"<Error><Code>InvalidRange</Code></Error>", {}
        return 206, content[first : last + 1], {**headers, "Content_Range": f"bytes {first}-{last}/{len(content)}"}

    def _put(self, key: str, _asked: dict[str, str], body: bytes) -> Answer:
        if self.headers.get("If-None-Match") and key in self.bucket.objects and not self.bucket.ignores:
            return 412, b"<Error><Code>PreconditionFailed</Code></Error>", {}
        self.bucket.objects[key] = body
        return 200, b"", {"ETag": self._tag(body)}

    def _post(self, _key: str, _asked: dict[str, str], body: bytes) -> Answer:
        keys = re.findall("<Key>(.*?)</Key>", body.decode())
        for key in keys:
            self.bucket.objects.pop(key, None)
        done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
        return 200, f"<DeleteResult>{done}</DeleteResult>".encode(), {}

    def _delete(self, key: str, _asked: dict[str, str], _body: bytes) -> Answer:
        self.bucket.objects.pop(key, None)
        return 204, b"", {}

    def _list(self, prefix: str, asked: dict[str, str], _body: bytes) -> Answer:
        after = asked.get("continuation-token", "")
        keys = sorted(key for key in self.bucket.objects if key.startswith(prefix) and key > after)
        shown = keys[: self.bucket.page]
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self._put_at(key)}</LastModified>"
            f"<ETag>{escape(self._tag(self.bucket.objects[key]))}</ETag><Size>{len(self.bucket.objects[key])}</Size></Contents>"
            for key in shown
        )
        more = len(keys) > len(shown)
        token = f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        return 200, text.encode(), {"Content_Type": "application/xml"}

    def _put_at(self, key: str) -> str:
        return ago(self.bucket.hours.get(key, 0), self.bucket.began)

    def _tag(self, content: bytes) -> str:
        return f'"{self.bucket.tag(content)}"'


Front.usual = Memory


def ago(hours: float, end: datetime | None = None) -> str:
    """The time so many hours before now, or another end, as lists have it."""
    return ((end or datetime.now(UTC)) - timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
