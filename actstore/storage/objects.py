"""Object storage: the few things that a store needs of S3, GCS, Azure or a web server.

A store on object storage has the names and the bytes of one in a folder. What differs is how a name is made once (put
if absent in place of a link), and that a stretch of bytes is one request.
"""

import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import google_crc32c
import obstore
from obstore import exceptions
from obstore.store import HTTPStore, from_url

from actstore.errors import ActstoreError, CorruptError, NotAStoreError
from actstore.storage import local
from actstore.storage.at_once import heard
from actstore.storage.urls import checked

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ClientConfig, RetryConfig

__all__ = [
    "AbsentError",
    "Entry",
    "NoStretchesError",
    "Objects",
    "PresentError",
    "Storage",
    "check_conditions",
    "client",
    "differ",
    "is_of",
    "line",
    "opened",
]

BLOCK = 2**22  # bytes of an object in memory at once
RETRIES: "RetryConfig" = {"max_retries": 4, "retry_timeout": timedelta(seconds=15)}  # then somebody who waits is told
SILENT = timedelta(seconds=60)  # of a server that was asked; then somebody who waits is told
PAUSES = (0.0, 0.1, 0.5, 2.0)  # seconds, while another request for the same name is under way
CREDENTIALS = (
    "look at the credentials of the environment (S3: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, "
    "AWS_REGION, or AWS_SKIP_SIGNATURE=true for what is public)"
)
UNKNOWN = re.compile("AccessKey|169\\.254|token|credential", re.IGNORECASE)  # in what is said where there are none
SECRETS = re.compile(r"\?\S*|(?<=//)[^/@\s]+@")  # of a URL: a signature, a token; a password
BODY = re.compile(r"<(?:\?xml|Error)\b.*")  # of a refusal; S3 repeats the session token that has expired in it
TOLD = re.compile(r"<(?:Code|Message)>([^<]*)<")  # what a body says
LONGEST = 300  # characters of what a server says
TAGGED = re.compile(r"[0-9a-f]{32}(-\d+)?")  # of S3's kind: a digest of the bytes, of encrypted ones no digest of them
DIGESTS: dict[int, Callable[[bytes], "hashlib._Hash"]] = {  # by their hexadecimal digits
    32: lambda content: hashlib.md5(content, usedforsecurity=False),
    40: lambda content: hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False),  # of git
    64: hashlib.sha256,
}
_process = os.getpid()


class AbsentError(ActstoreError):
    """There is no object of this name."""


class NoStretchesError(ActstoreError):
    """The server sends objects whole, whatever is asked for."""


class PresentError(ActstoreError):
    """There is an object of this name, and its bytes are others."""


class Entry(NamedTuple):
    """An object in a list. tag: other bytes have another; what it is, the server decides."""

    size: int
    tag: str


class Storage(Protocol):
    """Objects below one URL; names are relative to it. Any method may be called from any thread."""

    url: str
    lists: bool  # not a web server, which cannot say what it has
    web: bool  # a web server or the Hub, which take no files and may count requests

    def entries(self, folder: str) -> dict[str, Entry]:
        """What lies below `folder/`, by name; a request for each 1,000."""

    def listed(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of what lies below `folder/`, by name; requests as of `entries`."""

    def ages(self, folder: str) -> dict[str, float]:
        """Hours since what lies below `folder/` was put, by name."""

    def blocks(self, name: str, most: int) -> Iterator[bytes]:
        """All of an object, block by block: one request.

        Raises AbsentError, and CorruptError for one of more than `most` bytes, before they are read.
        """

    def tagged(self, name: str, most: int) -> tuple[bytes, str]:
        """All of an object and its tag; raises as `blocks` does."""

    def stretches(self, name: str, stretches: Sequence[tuple[int, int]]) -> list[bytes]:
        """Stretches [start, end) of an object, a request each, at once; shorter where the object ends.

        Raises AbsentError, NoStretchesError.
        """

    def write(self, name: str, content: Path | bytes) -> None:
        """Put an object, in place of one that is there: whole or not at all."""

    def create(self, name: str, content: Path | bytes) -> None:
        """Put an object where there is none; raises PresentError where one of other bytes is."""

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""


def opened(url: str) -> Storage:
    """The storage at a URL; credentials are those of the environment. Raises ActstoreError for what is no such URL."""
    url = checked(url)
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "") if url.startswith("s3:") else url
    made_by: Any = HTTPStore.from_url if url.startswith("http") else from_url
    asking = client(endpoint)
    sending: ClientConfig = {**asking, "read_timeout": asking["timeout"]}  # it is silent while it is sent to
    try:
        stores = [made_by(url, client_options=one, retry_config=RETRIES) for one in (asking, sending)]
    except (exceptions.BaseError, ValueError) as error:
        raise ActstoreError(f"{url}: {line(error)}") from None
    return Objects(url, *stores)


def client(endpoint: str) -> "ClientConfig":
    """How servers at this address are asked."""
    return {
        "allow_http": endpoint.startswith("http:"),
        "timeout": "10m",
        "connect_timeout": "5s",
        "read_timeout": SILENT,
    }


class Objects:
    """A storage that obstore speaks to."""

    credentials = CREDENTIALS  # where they come from, in words

    def __init__(self, url: str, store: Any, sender: Any = None) -> None:
        """sender: by which is sent, if that is another."""
        self.url, self._store, self._sender = url, store, sender or store
        self.web = url.startswith("http")
        self.lists = not self.web

    def entries(self, folder: str) -> dict[str, Entry]:
        """See Storage."""
        with self._said(folder):
            every = heard(lambda: [one for page in obstore.list(self._store, folder) for one in page])
        return {one["path"]: Entry(one["size"], _tag(one)) for one in every}

    def listed(self, folder: str) -> dict[str, int]:
        """See Storage."""
        return {name: one.size for name, one in self.entries(folder).items()}

    def ages(self, folder: str) -> dict[str, float]:
        """See Storage."""
        now = datetime.now(UTC)
        with self._said(folder):
            every = heard(lambda: [one for page in obstore.list(self._store, folder) for one in page])
        return {one["path"]: (now - one["last_modified"]).total_seconds() / 3600 for one in every}

    def blocks(self, name: str, most: int) -> Iterator[bytes]:
        """See Storage."""
        with self._said(name):
            blocks = iter(self._got(name, most).stream(min_chunk_size=BLOCK))
            while (block := heard(lambda: next(blocks, None))) is not None:
                yield bytes(block)

    def tagged(self, name: str, most: int) -> tuple[bytes, str]:
        """See Storage."""
        with self._said(name):
            found = self._got(name, most)
            return bytes(heard(found.bytes)), _tag(found.meta)

    def _got(self, name: str, most: int) -> "GetResult":
        found = heard(lambda: obstore.get(self._store, name))
        if (size := found.meta["size"]) > most:
            raise CorruptError(f"{self.url}/{name}: {size} bytes, where at most {most} belong")
        return found

    def stretches(self, name: str, stretches: Sequence[tuple[int, int]]) -> list[bytes]:
        """See Storage."""
        starts, ends = [start for start, _ in stretches], [end for _, end in stretches]
        with self._said(name):
            found = heard(lambda: obstore.get_ranges(self._store, name, starts=starts, ends=ends, coalesce=0))
            return [bytes(one) for one in found]

    def write(self, name: str, content: Path | bytes) -> None:
        """See Storage."""
        with self._said(name):
            heard(lambda: obstore.put(self._sender, name, content))

    def create(self, name: str, content: Path | bytes) -> None:
        """See Storage.

        "It exists" may mean our own request, whose answer was lost and which was sent again, or one under way that
        fails yet: what lies there tells.
        """
        for pause in PAUSES:
            time.sleep(pause)
            try:
                with self._said(name):
                    heard(lambda: obstore.put(self._sender, name, content, mode="create"))
                return
            except PresentError:
                try:
                    if self._is(name, content):
                        return
                except AbsentError:
                    continue
                except CorruptError:  # it is longer
                    pass
                raise
        raise ActstoreError(f"{self.url}/{name}: other requests for it are under way again and again; try it later")

    def _is(self, name: str, content: Path | bytes) -> bool:
        """Whether these bytes are there; of a file, which may be large, by their crc32c."""
        if isinstance(content, bytes):
            return b"".join(self.blocks(name, len(content))) == content
        checksum, size = 0, 0
        for block in self.blocks(name, content.stat().st_size):
            checksum, size = google_crc32c.extend(checksum, block), size + len(block)
        return (size, f"{checksum:08x}") == (content.stat().st_size, local.crc32c(content))

    def remove(self, names: Iterable[str]) -> None:
        """See Storage."""
        if found := list(names):
            with self._said(found[0]):
                heard(lambda: obstore.delete(self._store, found))

    @contextmanager
    def _said(self, name: str) -> Iterator[None]:
        """Inside, what the storage says against it is one line that names the object."""
        where = f"{self.url}/{name}"
        if os.getpid() != _process:  # obstore would wait for threads that a fork lacks
            raise RuntimeError(f"{where}: this process was forked from one that had read URLs; start it by spawn")
        try:
            yield
        except (FileNotFoundError, exceptions.NotFoundError) as error:
            if "NoSuchBucket" in str(error) or "ContainerNotFound" in str(error):
                raise NotAStoreError(f"{self.url}: there is no such bucket; {line(error)}") from None
            raise AbsentError(f"{where}: there is no such object") from None
        except exceptions.AlreadyExistsError:
            raise PresentError(f"{where}: exists already, with other bytes") from None
        except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
            raise ActstoreError(f"{where}: not allowed; {self.credentials}") from None
        except exceptions.NotSupportedError:
            raise NoStretchesError(f"{where}: this server sends no part of an object by itself") from None
        except (exceptions.BaseError, ValueError, OSError) as error:
            text = line(error)
            instead = self.credentials if UNKNOWN.search(text) else "nothing is known of what is there"
            raise ActstoreError(f"{where}: {text}; {instead}") from None


def check_conditions(storage: Storage) -> None:
    """Raise ActstoreError for a server that replaces what should have been there first."""
    name = f"probe-{secrets.token_hex(4)}"
    try:
        storage.create(name, b"1")
        with suppress(PresentError):
            storage.create(name, b"2")
            raise ActstoreError(
                f"{storage.url}: this server ignores If-None-Match: two writers would overwrite each other's records; "
                "take another one, or a folder"
            )
    finally:
        storage.remove([name])


def _tag(meta: "ObjectMeta") -> str:
    """The tag of an object; with its time, where that is no digest: a server may count from one."""
    tag = (meta["e_tag"] or "").removeprefix("W/").strip('"')
    return tag if TAGGED.fullmatch(tag) else f"{tag} {meta['last_modified'].isoformat()}"


def is_of(tag: str, content: bytes) -> bool:
    """Whether a tag is a digest of these bytes: MD5 with S3 mostly, git's or SHA-256 with the Hub.

    >>> is_of("900150983cd24fb0d6963f7d28e17f72", b"abc")
    True
    """
    digest = DIGESTS.get(len(tag))
    return digest is not None and digest(content).hexdigest() == tag


def differ(listed: str, got: str) -> bool:
    """Whether the tag in a list and that of an answer are of other bytes; only S3's are known to be alike in both.

    >>> differ("900150983cd24fb0d6963f7d28e17f72", "900150983cd24fb0d6963f7d28e17f72")
    False
    """
    return bool(TAGGED.fullmatch(listed) and TAGGED.fullmatch(got)) and listed != got


def line(error: Exception) -> str:
    """What a library says, in one line, without what URLs and answers may have of credentials."""
    text = " ".join(str(error).partition("Debug source")[0].split())
    text = BODY.sub(lambda body: ": ".join(TOLD.findall(body[0])), text)
    return SECRETS.sub("", text)[:LONGEST]
