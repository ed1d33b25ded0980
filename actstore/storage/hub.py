"""The Hub of Hugging Face: data sets are read, at the commit that a revision is when it is opened."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from huggingface_hub import HfApi, HfUri, errors, hf_hub_url, parse_hf_uri
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfUriError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from obstore.store import HTTPStore

from actstore.errors import ActstoreError, NotAStoreError
from actstore.storage import objects

__all__ = ["COMMIT", "HTTPError", "Hub", "NoDataSetError", "asked", "parsed"]

COMMIT = re.compile(r"[0-9a-f]{40}")
FILE = "file"  # any name
HTTPError: type[Exception] = errors.HTTPError  # type: ignore[attr-defined]  # of the client that it uses, not all httpx
SECONDS = 15.0  # then somebody who waits is told
CREDENTIALS = "log in (hf auth login) or set HF_TOKEN; of a gated data set ask for access on its page"


class NoDataSetError(NotAStoreError):
    """There is no data set of this name, or none that this user may see."""


class Hub(objects.Objects):
    """hf://datasets/OWNER/NAME[@REVISION][/FOLDER]; `url` has the commit as revision, so that it means the same always.

    Files are fetched by the addresses that huggingface_hub gives them, and redirected to other servers, which are not
    shown the token.
    """

    credentials = CREDENTIALS

    def __init__(self, url: str) -> None:
        named = parsed(url)
        self._api, self._id, self._folder = HfApi(), named.id, named.path_in_repo
        self._revision = named.revision or ""
        if not COMMIT.fullmatch(self._revision):
            with asked(url, self._id):
                info = self._api.dataset_info(named.id, revision=named.revision, timeout=SECONDS)
            self._revision = str(info.sha)
        place = hf_hub_url(named.id, FILE, subfolder=self._folder or None, repo_type="dataset", revision=self._revision)
        client = objects.client(place)
        if token := build_hf_headers().get("authorization"):
            client["default_headers"] = {"authorization": token}
        store = HTTPStore.from_url(place.removesuffix(f"/{FILE}"), client_options=client, retry_config=objects.RETRIES)
        super().__init__(replace(named, revision=self._revision).to_uri(), store)
        self.lists, self.web = True, True

    def entries(self, folder: str) -> dict[str, objects.Entry]:
        """See Storage."""
        start = f"{self._folder}/" if self._folder else ""
        with asked(f"{self.url}/{folder}", self._id):
            try:
                found = list(
                    self._api.list_repo_tree(
                        self._id, f"{start}{folder}", recursive=True, revision=self._revision, repo_type="dataset"
                    )
                )
            except EntryNotFoundError:
                return {}
        files = [one for one in found if isinstance(one, RepoFile)]
        tags = [one.lfs.sha256 if one.lfs else one.blob_id for one in files]
        return {
            one.path.removeprefix(start): objects.Entry(one.size, tag) for one, tag in zip(files, tags, strict=True)
        }


def parsed(url: str) -> HfUri:
    """A URL as the name of a data set; raises ActstoreError for what is none."""
    try:
        named = parse_hf_uri(url)
    except HfUriError as error:
        raise ActstoreError(f"{url}: {objects.line(error)}") from None
    if named.type != "dataset":
        raise ActstoreError(f"{url}: of the Hub data sets are read: hf://datasets/OWNER/NAME[@REVISION][/FOLDER]")
    return named


@contextmanager
def asked(where: str, data_set: str) -> Iterator[None]:
    """Inside, what the Hub says against a question about a data set is one line."""
    try:
        yield
    except RevisionNotFoundError:
        raise NotAStoreError(f"{where}: there is no such revision of {data_set}") from None
    except RepositoryNotFoundError:
        raise NoDataSetError(f"{where}: there is no data set {data_set}, or it is private: {CREDENTIALS}") from None
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise ActstoreError(f"{where}: {objects.line(error)}; nothing is known of what is there") from None
