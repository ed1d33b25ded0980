"""Where sparse autoencoders come from: folders of sae-lens, Gemma Scope's params.npz, and releases that sae-lens knows.

An autoencoder is numbered by block. One trained on the output of block l (resid_post, as Gemma Scope) belongs to
residual point l + 1; one on the input of block l (resid_pre), or numbered by residual point, to point l.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape, glob
from importlib.resources import files
from pathlib import Path

from actstore.errors import ActstoreError
from actstore_analyze.sae.formats import Entry, LensFolder, Released, ScopeFile, Sized, released_ids

__all__ = ["Source", "numbered", "source"]

PLACE = "{layer}"


@dataclass(frozen=True)
class Source:
    """Autoencoders by number, and the hook that says which residual point each number is."""

    name: str
    entries: Mapping[int, Entry]
    hook: str

    @property
    def points(self) -> tuple[int, ...]:
        """Residual points that have one, ascending."""
        return tuple(sorted(number + (self.hook == "post") for number in self.entries))

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of all its weights; equal for equal autoencoders."""
        return [self.entries[number].fingerprint for number in sorted(self.entries)]

    def load(self, point: int, width: int) -> Sized:
        """The autoencoder of a residual point; raises ActstoreError unless it reads vectors of that width."""
        entry = self.entries[point - (self.hook == "post")]
        loaded = entry.load()
        if loaded.d_in != width:
            raise ActstoreError(
                f"{entry} reads vectors of width {loaded.d_in}, the store holds {width}: it is of another model"
            )
        return loaded


def source(saes: str, sae_id: str | None = None, hook: str | None = None) -> Source:
    """Autoencoders of a folder (or a path with {layer}), of a release of sae-lens and an id with {layer}, or those that
    ship (`digits-mapped`).

    hook: `post` or `pre`; without it what their configuration says, else post for releases and params.npz, and pre for
    a folder, whose numbers then are residual points.
    """
    entries = _local(saes) if sae_id is None else _released(saes, sae_id)
    said = next(iter(entries.values())).hook
    if hook and said and hook != said:
        raise ActstoreError(f"{saes}: --hook {hook}, but its configuration says {said}; leave --hook out")
    return Source(saes, entries, hook or said or ("pre" if sae_id is None else "post"))


def numbered(path: str, what: str) -> dict[int, Path]:
    """Files or folders by the number in their name: those in a folder, or of a path with {layer} (and * if need be).

    Raises ActstoreError where there are none, or two of one number; `what` says what was looked for.
    """
    found: dict[int, Path] = {}
    for number, one in _of_pattern(path) if PLACE in path else _in_folder(Path(path)):
        if number in found:
            raise ActstoreError(f"{path}: {found[number]} and {one} are both of layer {number}; name one {what}")
        found[number] = one
    if not found:
        raise ActstoreError(
            f"{path}: no {what} found there; name a folder with one subfolder per layer, or a path with {PLACE}"
        )
    return found


def _in_folder(folder: Path) -> Iterator[tuple[int, Path]]:
    """What is called layer-3, layer_3.json, 3, ..."""
    for path in sorted(folder.glob("*")):
        if match := re.fullmatch(r"(?:.*\D)?(\d+)", path.stem if path.is_file() else path.name):
            yield int(match[1]), path


def _of_pattern(pattern: str) -> Iterator[tuple[int, Path]]:
    shape = re.escape(pattern).replace(r"\*", "[^/]*").replace(re.escape(PLACE), r"(\d+)", 1)
    for name in sorted(glob(escape(pattern).replace("[*]", "*").replace(PLACE, "*"))):  # noqa: PTH207  (the pattern may be absolute)
        if match := re.fullmatch(shape, name):
            yield int(match[1]), Path(name)


def _local(saes: str) -> dict[int, Entry]:
    shipped = files("actstore_extract") / "demo" / "models" / saes / "saes"
    if not Path(saes).exists() and shipped.is_dir():
        saes = str(shipped)
    if PLACE not in saes and not Path(saes).exists():
        raise ActstoreError(
            f"{saes}: no such folder; for a release of sae-lens give its id too: --sae-id 'layer_{PLACE}/...'"
        )
    return {number: _entry(path) for number, path in numbered(saes, "autoencoder").items()}


def _released(release: str, sae_id: str) -> dict[int, Entry]:
    ids = released_ids(release)
    shape = re.escape(sae_id).replace(re.escape(PLACE), r"(?P<layer>\d+)", 1)
    fitting = [(match, one) for one in ids if PLACE in sae_id and (match := re.fullmatch(shape, one))]
    found: dict[int, Entry] = {int(match["layer"]): Released(release, one) for match, one in fitting}
    if not found:
        raise ActstoreError(f"no id of '{release}' fits '{sae_id}'; with {PLACE} in place of the number: {ids[0]}")
    return found


def _entry(path: Path) -> Entry:
    if path.suffix == ".npz":
        return ScopeFile(path)
    if (path / "cfg.json").is_file():
        return LensFolder(path)
    inside = sorted(path.rglob("params.npz"))
    if len(inside) != 1:
        has = f"{len(inside)} params.npz" if inside else "neither cfg.json nor params.npz"
        raise ActstoreError(f"{path}: {has} in it; name one autoencoder for each layer, with {PLACE} in the path")
    return ScopeFile(inside[0])
