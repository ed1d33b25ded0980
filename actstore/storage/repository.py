"""A data set of the Hub that is written to: what its newest commit has, and commits on top of that one."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from actstore.errors import ActstoreError
from actstore.storage import hub, local, objects

__all__ = ["Repository"]

MEANWHILE = 412  # the branch is not where it was
REFUSED = (401, 403)
CREDENTIALS = "log in (hf auth login) or set HF_TOKEN, with a token that may write there"


class Repository:
    """hf://datasets/OWNER/NAME[@BRANCH][/FOLDER]; names are relative to the folder.

    sizes: bytes of what the newest commit has there, by name; none where there is no data set yet.
    """

    def __init__(self, url: str) -> None:
        self._asked, self.url = hub.parsed(url), url
        if hub.COMMIT.fullmatch(self._asked.revision or ""):
            raise ActstoreError(
                f"{url}: a commit stays what it is; push to a branch, or leave @{self._asked.revision} out"
            )
        self._api, self._folder = HfApi(), f"{self._asked.path_in_repo}/" if self._asked.path_in_repo else ""
        self.head: str | None = None
        self.private = False
        self._files: dict[str, RepoFile] = {}
        try:
            with hub.asked(url, self._asked.id):
                self._look()
        except hub.NoDataSetError:  # it is made with the first commit
            pass

    @property
    def sizes(self) -> dict[str, int]:
        """See the class."""
        start = len(self._folder)
        return {path[start:]: one.size for path, one in self._files.items() if path.startswith(self._folder)}

    @property
    def all_names(self) -> set[str]:
        """What the newest commit has, also beside the folder, by names in the data set."""
        return {*self._files}

    def path(self, name: str) -> str:
        """The name of a file in the data set."""
        return f"{self._folder}{name}"

    def has(self, name: str, content: Path | bytes) -> bool:
        """Whether the newest commit has exactly these bytes under that name; nothing is fetched."""
        found = self._files.get(self.path(name))
        if found is None:
            return False
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        if found.lfs:
            return found.size == size and found.lfs.sha256 == _hash(hashlib.sha256(), content)
        return found.size == size and found.blob_id == _hash(
            hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), content
        )

    def read(self, name: str, most: int) -> bytes:
        """The bytes of a file, of at most `most`; raises AbsentError."""
        if self.path(name) not in self._files:
            raise objects.AbsentError(f"{self.url}/{name}: there is no such file")
        return b"".join(hub.Hub(replace(self._asked, revision=self.head).to_uri()).blocks(name, most))

    def make(self, *, private: bool) -> None:
        """Make the data set where there is none; raises ActstoreError for a public one that should be private."""
        if self.head is None:
            with self._said():
                self._api.create_repo(self._asked.id, repo_type="dataset", private=private or None, exist_ok=True)
                self._look()
        if private and not self.private:
            raise ActstoreError(
                f"{self.url} is there already, and everybody can read it; make it private on its page, or leave "
                "--private out"
            )

    def commit(self, added: Mapping[str, Path | bytes], removed: Sequence[str], message: str) -> None:
        """A commit on top of the one that was seen last, which adds or replaces files and removes folders.

        Raises ActstoreError where somebody else committed meanwhile.
        """
        adds = [
            CommitOperationAdd(self.path(name), one if isinstance(one, bytes) else str(one.absolute()))
            for name, one in added.items()
        ]
        removes = [CommitOperationDelete(f"{self.path(name)}/", is_folder=True) for name in removed]
        with self._said(), _quietly():
            done = self._api.create_commit(
                self._asked.id,
                [*adds, *removes],
                commit_message=message,
                repo_type="dataset",
                revision=self._asked.revision,
                parent_commit=self.head,
            )
        self.head = done.oid

    def _look(self) -> None:
        info = self._api.dataset_info(self._asked.id, revision=self._asked.revision, timeout=hub.SECONDS)
        self.head, self.private = str(info.sha), bool(info.private)
        found = self._api.list_repo_tree(self._asked.id, recursive=True, revision=self.head, repo_type="dataset")
        self._files = {one.path: one for one in found if isinstance(one, RepoFile)}

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Inside, what the Hub and the libraries that send to it say against it is one line."""
        try:
            yield
        except RepositoryNotFoundError:
            raise ActstoreError(f"{self.url}: not allowed, or it is gone; {CREDENTIALS}") from None
        except HfHubHTTPError as error:
            status = error.response.status_code
            if status == MEANWHILE:
                raise ActstoreError(
                    f"{self.url}: somebody committed there meanwhile; push again, which sends nothing twice"
                ) from None
            why = CREDENTIALS if status in REFUSED else "push again, which goes on where it was"
            raise ActstoreError(f"{self.url}: {objects.line(error)}; {why}") from None
        except (hub.HTTPError, OSError, ValueError, RuntimeError) as error:
            if isinstance(error, ActstoreError):
                raise
            first = error.__cause__ if isinstance(error.__cause__, Exception) else error
            raise ActstoreError(f"{self.url}: {objects.line(first)}; push again, which goes on where it was") from None


@contextmanager
def _quietly() -> Iterator[None]:
    """Inside, the bars of the Hub's library are not drawn: there is one already."""
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _hash(known: "hashlib._Hash", content: Path | bytes) -> str:
    """A hash of bytes, going on from what it has."""
    if isinstance(content, bytes):
        known.update(content)
        return known.hexdigest()
    with content.open("rb") as file, local.naming(content):
        while block := file.read(objects.BLOCK):
            known.update(block)
    return known.hexdigest()
