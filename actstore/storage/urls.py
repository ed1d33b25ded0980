"""URLs: places of stores that are no folders of this machine."""

from pathlib import Path
from urllib.parse import urlsplit

from actstore.errors import ActstoreError

__all__ = ["check_folder", "checked", "is_url"]

SCHEMES = ("s3", "gs", "az", "abfs", "abfss", "https", "http", "hf")


def is_url(place: object) -> bool:
    """Whether a text names a place that is no folder.

    >>> is_url("s3://bucket/store"), is_url("runs/store"), is_url("C:/runs")
    (True, False, False)
    """
    return isinstance(place, str) and "://" in place


def checked(url: str) -> str:
    """A URL as it names a store, without a slash at its end.

    Raises ActstoreError for a scheme that is not known, and for what only somebody with a secret has: it would stand in
    messages, results and pages.

    >>> checked("s3://bucket/store/")
    's3://bucket/store'
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES:
        raise ActstoreError(f"{scheme}://: not a place of stores; those are folders, {'://, '.join(SCHEMES)}://")
    try:
        parts = urlsplit(url)
        secret = parts.username or parts.password or parts.query or parts.fragment
    except ValueError as error:
        raise ActstoreError(f"not a URL: {error}") from None
    if secret:
        raise ActstoreError(
            f"{scheme}://{parts.hostname}: a URL of a store has no user, password, ? or # in it, which would stand in "
            "messages and results; give credentials by the environment, as the provider's own tools take them"
        )
    if not parts.netloc:
        raise ActstoreError(f"{url}: names no bucket or server, such as {scheme}://NAME/store")
    return url.rstrip("/")


def check_folder(place: Path | str) -> Path:
    """The path of a folder; raises ActstoreError for a URL."""
    if is_url(place):
        raise ActstoreError(f"{place}: this is done in a folder (actstore pull), which is then sent (actstore push)")
    return Path(place)
