"""Publishing: a store in a folder, sent to the Hub as a data set, whose readers see all that is new or none of it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from actstore.errors import ActstoreError
from actstore.format import commits
from actstore.format.commits import File
from actstore.format.names import CHECKPOINT, COMMITS, HEADER, PARTS, RECORD_BYTES, RESULTS, TABLES
from actstore.maintain import parcel, readme
from actstore.maintain.pushing import Push
from actstore.progress import bar
from actstore.storage.repository import Repository
from actstore.store import Store

__all__ = ["Published", "publish"]

MOST_FILES = 100_000  # of a data set, as the Hub advises
MOST_ENTRIES = 10_000  # of a folder
MOST_BYTES = 50 * 10**9  # of a file
AT_ONCE = 250  # files of a commit: one question to the Hub is of 256
TEXT_BYTES = 2**20  # of a card, or of what is said of files
ATTRIBUTES = ".gitattributes"
SHARDS = "parts/**/c/** filter=lfs diff=lfs merge=lfs -text\n"  # else the Hub adds a line for each file without suffix


@dataclass(frozen=True)
class Published(Push):
    """What was sent; kept_card: the card that is there is somebody's own, and was left as it is."""

    kept_card: bool = False


def publish(
    store: Path,
    url: str,
    *,
    about: str = "",
    saved: bool = True,
    private: bool = False,
    license_name: str | None = None,
    card: bool = False,
) -> Published:
    """Send what is not in the data set yet, which is made where there is none.

    Files come first, each compared with its committed checksum, in commits of some hundred, which change nothing for
    readers; then one commit has records, header, what is derived of them and the card, and removes parts that this
    store's compactions replaced: who has an older commit open keeps what it has.

    about: what the store holds, for its card. saved: saved results, too. private: for the owner alone.
    license_name: as the Hub has them; that of the card there, where none is said.
    card: replace a card that is somebody's own.
    Raises ActstoreError for another store there, for a card's license that is none, where the Hub's limits do not let
    it in and where somebody else commits meanwhile; CorruptError for a file that is damaged here.
    """
    if license_name is not None:
        readme.check_license(license_name)
    opened, lines = parcel.opened(store)
    there = Repository(url)
    known = _is_there(opened, there)
    files = parcel.files(opened, saved=saved)
    fresh = _fresh(opened, there, files, known=known)
    records_of = {f"{COMMITS}/{name}": content for name, content in lines.items()}
    _check_records(there, records_of)
    gone = _replaced(opened, there, lines)
    _check_room(
        there, store, {**{name: file.size for name, file in files.items()}, **dict.fromkeys(records_of, 0)}, gone
    )
    there.make(private=private)
    _send(there, store, fresh)
    text, kept_card = _card(opened, there, about, license_name, replace=card)
    with parcel.packed(opened, saved=saved) as tables:
        last: dict[str, Path | bytes] = {
            **records_of,
            CHECKPOINT: parcel.index_of(opened, lines),
            TABLES: tables,
            **text,
        }
        last |= {} if known else {HEADER: opened.header.dump()}
        new = {name: content for name, content in last.items() if not there.has(name, content)}
        if new or gone:
            there.commit(new, gone, f"actstore push: {len(opened.commits)} parts")
    n_bytes = sum(file.size for file in fresh.values())
    return Published(len(fresh), n_bytes, len(new.keys() & records_of.keys()), kept_card)


def _is_there(opened: Store, there: Repository) -> bool:
    """Whether this very store is in the data set already; ActstoreError for another one."""
    if HEADER not in there.sizes:
        return False
    parcel.check_same(opened, there.read(HEADER, RECORD_BYTES), there.url)
    return True


def _fresh(opened: Store, there: Repository, files: Mapping[str, File], *, known: bool) -> dict[str, File]:
    """Files that are not there as they are here."""
    sizes, found = there.sizes, {}
    for name, file in files.items():
        if name.startswith((f"{PARTS}/", f"{RESULTS}/")):  # names that no other bytes have
            same = sizes.get(name) == file.size
        else:
            same = there.has(name, opened.checked(name))
            if not (same or known) and name in sizes:
                raise ActstoreError(f"{there.url}/{name}: exists already, with other bytes; choose another place")
        if not same:
            found[name] = file
    return found


def _check_records(there: Repository, lines: Mapping[str, bytes]) -> None:
    for name in lines.keys() & there.sizes.keys():
        if not there.has(name, lines[name]):
            raise ActstoreError(f"{there.url}/{name}: exists already, with other bytes; another writer committed it")


def _replaced(opened: Store, there: Repository, lines: Collection[str]) -> list[str]:
    """Folders of parts there that compactions of this store replaced."""
    read, _ = commits.readable(opened.path, opened.header.crc32c, sorted(lines))
    live = {commit.part for commit in opened.commits}
    folders = {"/".join(name.split("/")[:2]) for name in there.sizes if name.startswith(f"{PARTS}/")}
    return sorted(folders & {f"{PARTS}/{commit.part}" for commit in read if commit.part not in live})


def _check_room(there: Repository, store: Path, sizes: Mapping[str, int], gone: Sequence[str]) -> None:
    """Raise ActstoreError where the data set would have more files than the Hub takes."""
    left = {name for name in there.all_names if not any(name.startswith(f"{there.path(one)}/") for one in gone)}
    names = left | {there.path(name) for name in (*sizes, HEADER, CHECKPOINT, TABLES, ATTRIBUTES, readme.NAME)}
    instead = f"; run actstore compact {store} and push again, or push to object storage"
    if len(names) > MOST_FILES:
        raise ActstoreError(
            f"{there.url}: {len(names):,} files, and the Hub takes {MOST_FILES:,} of a data set{instead}"
        )
    paths = {path for name in names for path in (PurePosixPath(name), *PurePosixPath(name).parents)}
    full = [one for one in Counter(path.parent for path in paths).items() if one[1] > MOST_ENTRIES]
    if full:
        folder, entries = max(full, key=lambda one: (one[0].name != PARTS, one[1]))  # compact leaves all but parts
        kept = " (compact keeps the record of every batch)" if folder.name == COMMITS else ""
        raise ActstoreError(
            f"{there.url}/{folder}: {entries:,} entries, and the Hub takes {MOST_ENTRIES:,} of a folder"
            + (instead if folder.name == PARTS else f"; push to object storage{kept}")
        )
    name, size = max(sizes.items(), key=lambda one: one[1])
    if size > MOST_BYTES:
        raise ActstoreError(f"{store}/{name}: {size / 1e9:.0f} GB, and the Hub takes files of {MOST_BYTES / 1e9:.0f}")


def _send(there: Repository, store: Path, fresh: Mapping[str, File]) -> None:
    names = list(fresh)
    with bar(len(names), "files") as progress:
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            for name in some:
                fresh[name].check(store / name, whole=True)
            there.commit({**{name: store / name for name in some}, **_attributes(there)}, (), "actstore push: files")
            progress.advance(len(some))


def _attributes(there: Repository) -> dict[str, bytes]:
    """What tells the Hub that shards are no text, where it does not know."""
    found = there.read(ATTRIBUTES, TEXT_BYTES).decode() if ATTRIBUTES in there.sizes else ""
    return {} if SHARDS in found else {ATTRIBUTES: f"{found.rstrip()}\n{SHARDS}".lstrip().encode()}


def _card(
    opened: Store, there: Repository, about: str, license_name: str | None, *, replace: bool
) -> tuple[dict[str, bytes], bool]:
    """The card, none where the store is in a folder of the data set; and whether one that is somebody's own stays."""
    if there.path(""):
        return {}, False
    found = there.read(readme.NAME, TEXT_BYTES).decode(errors="replace") if readme.NAME in there.sizes else ""
    if found and not (replace or readme.is_ours(found)):
        return {}, True
    return {
        readme.NAME: readme.text(opened, there.url, about, license_name or readme.license_of(found)).encode()
    }, False
