"""A Hub on this machine, for tests: data sets with commits, whose files lie on another server, a bucket."""

import json
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from huggingface_hub import close_session, constants, file_download

import leading
from buckets import Bucket, Fault, bucket, served

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
    faults: list[Fault] = field(default_factory=list)
    commits: list[dict[str, int]] = field(default_factory=list)  # sizes of what each added, None of what it removed

    def files(self, sha: str) -> dict[str, bytes]:
        """What a commit has."""
        return {key[41:]: one for key, one in self.cdn.objects.items() if key.startswith(f"{sha}/")}

    def put(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Make a commit that has these files, and no other."""
        before = self.refs.get(branch, "")
        sha = sha1(repr([before, *sorted(files.items())]).encode()).hexdigest()
        self.cdn.objects |= {f"{sha}/{name}": content for name, content in files.items()}
        self.refs[branch] = sha
        return sha

    def push(self, folder: Path, prefix: str = "", branch: str = "main") -> str:
        """Make a commit that has the files of a folder, and no other."""
        found = {f"{prefix}{one.relative_to(folder).as_posix()}": one for one in folder.rglob("*") if one.is_file()}
        return self.put({name: one.read_bytes() for name, one in found.items()}, branch)

    def took(self) -> list[str]:
        """The requests since this was asked last."""
        found = self.requests[:]
        self.requests.clear()
        return found


@contextmanager
def pointed(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[Hub]:
    """A Hub to which the environment of this process leads, with a token and an empty cache."""
    with bucket("cdn") as cdn, hub(cdn) as found:
        leading.point(monkeypatch, cdn, cache)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        for module in (constants, file_download):
            for name, value in vars(module).items():  # what HF_ENDPOINT was when they were imported
                if isinstance(value, str) and value.startswith("https://huggingface.co"):
                    monkeypatch.setattr(module, name, value.replace("https://huggingface.co", found.url))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # tests are, elsewhere
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # whose servers are not those of this Hub
        yield found
        close_session()


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
        if not (path.startswith(f"/api/datasets/{ID}") and self.hub.refs):
            return self._refuse(404, "RepoNotFound")
        if kind == "tree":
            return self._tree(*rest.partition("/")[::2])
        revision = unquote(rest) or "main"
        sha = self.hub.refs.get(revision, revision)
        if sha not in self.hub.refs.values():
            return self._refuse(404, "RevisionNotFound")
        return self._answer({"id": ID, "sha": sha, "private": self.hub.private})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = urlsplit(self.path).path
        what = path.removeprefix("/api/").removeprefix(f"datasets/{ID}").removeprefix(f"/datasets/{ID}.git/").strip("/")
        what = "/".join(what.split("/")[:2]) if what.startswith("repos") else what.split("/")[0]
        self.hub.requests.append(what)
        self.hub.tokens.add(self.headers.get("Authorization", ""))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refuse(401, "RepoNotFound")
        fault = next((one for one in self.hub.faults if one.times and one.key == what), None)
        if fault:
            fault.times -= 1
        if fault and isinstance(fault.kind, int):
            return self._refuse(fault.kind, "")
        branch = unquote(path.rpartition("/")[2])
        if what == "commit":
            self._commit(
                [json.loads(line) for line in body.splitlines()],
                branch,
                lost=fault is not None and fault.kind == "lost",
            )
        else:
            answers = {"repos/create": self._create, "validate-yaml": _valid, "preupload": _modes, "info": self._lfs}
            self._answer(answers[what](json.loads(body)))
        return None

    def _create(self, asked: dict[str, object]) -> dict[str, object]:
        if "main" not in self.hub.refs:
            self.hub.private = asked.get("visibility") == "private" or bool(asked.get("private"))
            self.hub.put({".gitattributes": b"*.parquet filter=lfs diff=lfs merge=lfs -text\n"})
        return {"url": f"{self.hub.url}/datasets/{ID}"}

    def _lfs(self, asked: dict[str, list[dict[str, object]]]) -> dict[str, object]:
        """Where large files go: to the other server, those that it has not."""
        found: list[dict[str, object]] = []
        for one in asked["objects"]:
            place = {"href": f"{self.hub.cdn.url}/{self.hub.cdn.name}/lfs/{one['oid']}?X-Signature=SiGnAtUrE"}
            known = f"lfs/{one['oid']}" in self.hub.cdn.objects
            found.append({**one, **({} if known else {"actions": {"upload": place}})})
        return {"transfer": "basic", "objects": found}

    def _commit(self, lines: list[dict[str, dict[str, str]]], branch: str, *, lost: bool) -> None:
        before = self.hub.refs.get(branch, "")
        (head,) = [one["value"] for one in lines if one["key"] == "header"]
        if head.get("parentCommit", before) != before:
            return self._refuse(412, "")
        files, sizes = self.hub.files(before), {}
        for one in lines:
            value = one["value"]
            if one["key"] == "file":
                sizes[value["path"]] = b64decode(value["content"])
            elif one["key"] == "lfsFile":
                sizes[value["path"]] = self.hub.cdn.objects[f"lfs/{value['oid']}"]
            elif one["key"] == "deletedFolder":
                files = {name: content for name, content in files.items() if not name.startswith(value["path"])}
        self.hub.commits.append({name: len(content) for name, content in sizes.items()})
        sha = self.hub.put({**files, **sizes}, branch)
        if lost:
            self.close_connection = True
            return None
        return self._answer({"commitOid": sha, "commitUrl": f"{self.hub.url}/datasets/{ID}/commit/{sha}"})

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
        start = f"{unquote(folder)}/" if folder else ""
        found = {name: content for name, content in self.hub.files(sha).items() if name.startswith(start)}
        if not found:
            return self._refuse(404, "EntryNotFound")
        files = [_listed(name, content) for name, content in found.items()]
        return self._answer([*files, {"type": "directory", "path": f"{start}more", "oid": "0" * 40}])

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


def _is_large(sample: bytes) -> bool:
    return b"\0" in sample


def _listed(name: str, content: bytes) -> dict[str, object]:
    """A file as a tree lists it: with git's own hash, and of large ones that of the content."""
    found = {"type": "file", "path": name, "size": len(content)}
    if not _is_large(content[:512]):
        return {**found, "oid": sha1(b"blob %d\0" % len(content) + content).hexdigest()}
    lfs = {"oid": sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return {**found, "oid": "0" * 40, "lfs": lfs}


def _modes(asked: dict[str, list[dict[str, str]]]) -> dict[str, object]:
    """How files are to be sent, by their first bytes."""
    modes = ["lfs" if _is_large(b64decode(one["sample"])) else "regular" for one in asked["files"]]
    files = [one["path"] for one in asked["files"]]
    return {
        "files": [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in zip(files, modes, strict=True)]
    }


def _valid(asked: dict[str, str]) -> dict[str, object]:
    """What is said against the head of a card: nothing, if it is what others read."""
    yaml.safe_load(asked["content"].split("---")[1])
    return {"errors": [], "warnings": []}
