"""Where sparse autoencoders come from: folders of sae-lens, Gemma Scope's params.npz, and releases that sae-lens knows.

One trained on the output of block l (resid_post, as Gemma Scope) belongs to residual point l + 1; one on the input of
block l (resid_pre) to point l. Each is where its own configuration says; one that says nothing is numbered by block,
or by residual point. The number in its name is that of its block or of its residual point.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from glob import escape, glob
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore_analyze.devices import HOST, Device
from actstore_analyze.sae.formats import Entry, LensFolder, Released, ScopeFile, Sized, released_ids
from actstore_analyze.sae.hook import Hook

__all__ = ["Source", "numbered", "source"]

PLACE = "{layer}"


@dataclass(frozen=True)
class Source:
    """Autoencoders by the number in their names, and the residual point of each number.

    hook: where all of them are, `pre` or `post`; None where some are before a block and others behind one.
    """

    name: str
    entries: Mapping[int, Entry]
    of: Mapping[int, int]
    hook: str | None

    @property
    def points(self) -> tuple[int, ...]:
        """Residual points that have one, ascending."""
        return tuple(sorted(self.of.values()))

    @property
    def read(self) -> str:
        """How the numbers are read, in words."""
        return "as each configuration says" if self.hook is None else f"with --hook {self.hook}"

    @property
    def models(self) -> list[str]:
        """The models that they are said to be of, sorted; none where nothing says it."""
        said = {
            one.configuration.said.get("model_name") for one in self.entries.values() if isinstance(one, LensFolder)
        }
        return sorted({*filter(None, said), *([self.name] if _is_shipped(self.name) else [])})

    @cached_property
    def fingerprints(self) -> list[str]:
        """Of all its weights; equal for equal autoencoders."""
        return [self.entries[number].fingerprint for number in sorted(self.entries)]

    def load(self, point: int, width: int, device: Device = HOST) -> Sized:
        """The autoencoder of a residual point, on a device.

        Raises ActstoreError unless it reads vectors of that width, and where its configuration says another place.
        """
        (number,) = (number for number, own in self.of.items() if own == point)
        entry = self.entries[number]
        said = entry.said
        if said is not None and said.side is not None and said.point(number) != point:
            raise ActstoreError(
                f"{entry}: its configuration says residual point {said.point(number)} ({said.side}), "
                f"not {point}: take --hook {said.side}"
            )
        loaded = entry.load()
        if loaded.d_in != width:
            raise ActstoreError(
                f"{entry} reads vectors of width {loaded.d_in}, the store holds {width}: it is of another model"
            )
        return loaded if device is HOST else loaded.on(device)


def source(saes: str, sae_id: str | None = None, hook: str | None = None) -> Source:
    """Autoencoders of a folder (or a path with {layer}), of a release of sae-lens and an id with {layer}, or those that
    ship (`digits-mapped`, and `openmoji-mapped` of SmolLM2-135M).

    hook: `post` or `pre`, of those whose configuration does not say it; without it post for releases and params.npz,
    and pre for a folder, whose numbers then are residual points.
    Raises ActstoreError where a configuration says another hook, another layer than the name, or another place than
    the residual stream, and where only some of several say anything.
    """
    entries = _local(saes) if sae_id is None else _released(saes, sae_id)
    said = {number: entry.hook for number, entry in entries.items()}
    silent = [number for number, one in said.items() if one is None]
    if silent and len(silent) < len(said) and hook is None:
        raise ActstoreError(
            f"{entries[silent[0]]} does not say where it was trained, others of {saes} do: say --hook pre or post"
        )
    usual = hook or ("pre" if sae_id is None else "post")
    hooks = {number: _whole(entries[number], one or Hook(usual), hook) for number, one in said.items()}
    points = {number: one.point(number) for number, one in hooks.items()}
    _check_numbers(entries, hooks, points)
    sides = {str(one.side) for one in hooks.values()}
    return Source(saes, entries, points, sides.pop() if len(sides) == 1 else None)


def _whole(entry: Entry, said: Hook, asked: str | None) -> Hook:
    """A hook with its side, which the caller says where the name of a module does not."""
    if said.side is None and asked is None:
        raise ActstoreError(
            f"{entry}: its configuration names block {said.block}, not whether its input or its output: "
            "say --hook post for the output (what sae-lens takes of a module of Transformers), or --hook pre"
        )
    if asked and said.side and asked != said.side:
        raise ActstoreError(f"{entry}: --hook {asked}, but its configuration says {said.side}; leave --hook out")
    return Hook(said.side or asked, said.block)


def _check_numbers(entries: Mapping[int, Entry], hooks: Mapping[int, Hook], points: Mapping[int, int]) -> None:
    """Raise ActstoreError if a name has another number than its configuration, or two are of one residual point."""
    owner: dict[int, int] = {}
    for number, point in points.items():
        if number not in (hooks[number].block, point) and hooks[number].block is not None:
            raise ActstoreError(
                f"{entries[number]}: its name says {number}, its configuration block {hooks[number].block} "
                f"({hooks[number].side}, residual point {point}): mend one of them"
            )
        if point in owner:
            raise ActstoreError(f"{entries[owner[point]]} and {entries[number]} are both of residual point {point}")
        owner[point] = number


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
    """What is called layer-3, layer_3.json, 3, ..., or as Neuronpedia calls sources, 3-gemmascope-res-16k."""
    for path in sorted(folder.glob("*")):
        is_source = any(path.glob("explanations*"))
        shape = r"(\d+)-.*" if is_source else r"(?:.*\D)?(\d+)"
        if match := re.fullmatch(shape, path.stem if path.is_file() else path.name):
            yield int(match[1]), path


def _of_pattern(pattern: str) -> Iterator[tuple[int, Path]]:
    shape = re.escape(pattern).replace(r"\*", "[^/]*").replace(re.escape(PLACE), r"(\d+)", 1)
    for name in sorted(glob(escape(pattern).replace("[*]", "*").replace(PLACE, "*"))):  # noqa: PTH207  (the pattern may be absolute)
        if match := re.fullmatch(shape, name):
            yield int(match[1]), Path(name)


def _shipped(saes: str) -> Traversable:
    return files("actstore_extract") / "demo" / "models" / saes / "saes"


def _is_shipped(saes: str) -> bool:
    return not Path(saes).exists() and _shipped(saes).is_dir()


def _local(saes: str) -> dict[int, Entry]:
    if _is_shipped(saes):
        saes = str(_shipped(saes))
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
    if suffix_of(path) == ".npz":
        return ScopeFile(path)
    if (path / "cfg.json").is_file():
        return LensFolder(path)
    inside = sorted(path.rglob("params.npz"))
    if len(inside) != 1:
        has = f"{len(inside)} params.npz" if inside else "neither cfg.json nor params.npz"
        raise ActstoreError(f"{path}: {has} in it; name one autoencoder for each layer, with {PLACE} in the path")
    return ScopeFile(inside[0])
