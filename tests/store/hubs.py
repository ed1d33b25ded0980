"""A Hub on this machine, for tests: data sets with commits, whose files lie on another server, a bucket."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

from buckets import Bucket, served

TOKEN = "hf_ToKeN"
ID = "me/acts"


@dataclass
class Hub:
    """The data set ID, served at `url`; its files are sent by `cdn`. refs: the commits of branches."""

    cdn: Bucket
    url: str = ""
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    requests: list[str] = field(default_factory=list)  # api, tree, resolve
    tokens: set[str] = field(default_factory=set)

    def push(self, folder: Path, prefix: str = "", branch: str = "main") -> str:
        """Make a commit that has the files of a folder, and no other."""
        files = {f"{prefix}{one.relative_to(folder).as_posix()}": one for one in folder.rglob("*") if one.is_file()}
        sha = sha1(repr(sorted((name, one.read_bytes()) for name, one in files.items())).encode()).hexdigest()
        self.cdn.objects |= {f"{sha}/{name}": one.read_bytes() for name, one in files.items()}
        self.refs[branch] = sha
        return sha

    def took(self) -> list[str]:
        """The requests since this was asked last."""
        found = self.requests[:]
        self.requests.clear()
        return found


@contextmanager
def hub(cdn: Bucket) -> Iterator[Hub]:
    """A Hub that is served at `url`, without a commit yet."""
    made = Hub(cdn)

    class Handler(_Handler):
        hub = made

    with served(Handler) as made.url:
        yield made


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.hub.private and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "RepoNotFound")
        if path.startswith(f"/datasets/{ID}/resolve/"):
            return self._resolve(path.removeprefix(f"/datasets/{ID}/resolve/"))
        kind, _, rest = path.removeprefix(f"/api/datasets/{ID}").strip("/").partition("/")
        self.hub.requests.append("tree" if kind == "tree" else "api")
        if not path.startswith(f"/api/datasets/{ID}"):
            return self._refuse(404, "RepoNotFound")
        if kind == "tree":
            return self._tree(*rest.partition("/")[::2])
        revision = unquote(rest) or "main"
        sha = self.hub.refs.get(revision, revision)
        if sha not in self.hub.refs.values():
            return self._refuse(404, "RevisionNotFound")
        return self._answer({"id": ID, "sha": sha})

    def _resolve(self, place: str) -> None:
        self.hub.requests.append("resolve")
        sha, _, name = place.partition("/")
        if f"{sha}/{name}" not in self.hub.cdn.objects:
            return self._refuse(404, "EntryNotFound")
        self.send_response(302)
        self.send_header("Location", f"{self.hub.cdn.url}/{self.hub.cdn.name}/{sha}/{name}?X-Signature=SiGnAtUrE")
        self.send_header("Content-Length", "0")
        return self.end_headers()

    def _tree(self, sha: str, folder: str) -> None:
        start = f"{sha}/{unquote(folder)}/"
        found = {name: content for name, content in self.hub.cdn.objects.items() if name.startswith(start)}
        if not found:
            return self._refuse(404, "EntryNotFound")
        names = {name.removeprefix(f"{sha}/"): len(content) for name, content in found.items()}
        files = [{"type": "file", "path": name, "size": size, "oid": "0" * 40} for name, size in names.items()]
        return self._answer([*files, {"type": "directory", "path": f"{folder}/more", "oid": "0" * 40}])

    def _refuse(self, status: int, code: str) -> None:
        self._answer({"error": code}, status, code)

    def _answer(self, content: object, status: int = 200, code: str = "") -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
