"""Files of arrays, one or a folder of them, whose names and axes say what they hold."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.format.given import suffix_of
from actstore_extract.run.importing.asked import AXES, Asked, Entry
from actstore_extract.run.importing.files import SUFFIXES, Array, read
from actstore_extract.run.importing.names import EASYROUTINE, TRANSFORMER_LENS, Named, Pattern, natural
from actstore_extract.run.importing.source import ALL, Block, Source, Vectors, check_points, few, same, shape_of

__all__ = ["source"]

NAMES = {"transformer-lens": TRANSFORMER_LENS}
USUAL_AXES = {"transformer-lens": ("sample", "position", "feature")}
NOTHING = Named(None, None, None, None)
LAST_IS_NORMED = (
    "of Transformers' hidden_states the last is behind the final norm, and no residual point: say with --layers which "
    "of them are wanted, without it"
)


def source(path: Path, kind: str, asked: Asked) -> Source:
    """The source in a file or a folder of files of a kind: pt, npy, safetensors, transformer-lens.

    Raises ActstoreError for what nothing says: what an axis is, which residual point an array is of.
    """
    patterns = [Pattern(text) for text in asked.names or NAMES.get(kind, (*TRANSFORMER_LENS, *EASYROUTINE))]
    files = _files(path, SUFFIXES.get(kind) or tuple(suffix for found in SUFFIXES.values() for suffix in found))
    entries, others = _entries(path, files, patterns, alone=len(files) == 1 and not asked.names)
    asked = asked.of(entries, USUAL_AXES.get(kind, ()))
    if not asked.layers and any("hidden_states" in str(entry) for entry in entries):
        raise ActstoreError(f"{path}: {LAST_IS_NORMED}")
    groups: dict[str, list[Entry]] = {}
    for entry in entries:
        groups.setdefault(_group(entry, asked), []).append(entry)
    names = list(groups) if entries[0].named.sample else sorted(groups, key=natural)
    blocks = [_block(groups[name], asked) for name in names]
    points = [{(role, layer) for entry in groups[name] for role, layer, *_ in _places(entry, asked)} for name in names]
    layers = check_points(dict(zip(names, points, strict=True)))
    if missing := sorted(set(asked.layers) - set(layers)):
        raise ActstoreError(f"{path}: no array is of layer {missing[0]}, which --layers names")
    said = [f"in this order: {few(names)}"] if len(names) > 1 else []
    if others:
        said.append(f"left out, as no residual points: {few(others)} ({len(others)} arrays)")
    return Source(blocks, layers, [path] if path.is_file() else files, _columns(blocks, names), said=said)


def _files(path: Path, suffixes: Sequence[str]) -> list[Path]:
    if path.is_file():
        if suffix_of(path) not in suffixes:
            raise ActstoreError(f"{path}: a file of this kind ends in {', '.join(suffixes)}")
        return [path]
    if not path.is_dir():
        raise ActstoreError(f"{path} does not exist")
    found = [file for file in path.rglob("*") if suffix_of(file) in suffixes and not file.name.startswith(".")]
    if not found:
        raise ActstoreError(f"{path}: no file in it ends in {', '.join(suffixes)}")
    return sorted(found, key=lambda file: natural(file.relative_to(path).as_posix()))


def _entries(
    path: Path, files: Sequence[Path], patterns: Sequence[Pattern], *, alone: bool
) -> tuple[list[Entry], list[Entry]]:
    """The arrays that a pattern knows, and the others; one that is alone needs no name."""
    known: list[Entry] = []
    others: list[Entry] = []
    for file in files:
        name = file.relative_to(path if path.is_dir() else path.parent).with_suffix("").as_posix()
        for key, array in read(file).items():
            named = next((named for pattern in patterns if (named := pattern.match(name, key))), None)
            if named is None and alone and key is None:
                named = NOTHING
            (others if named is None else known).append(Entry(file, name, key, named or NOTHING, shape_of(array)))
    if not known:
        raise ActstoreError(
            f"{path}: no array has a name such as {patterns[0].text}; there are {few(others)}: say what names mean, "
            "--names 'layer_{layer}', or {block} for the output of that block"
        )
    return known, others


def _group(entry: Entry, asked: Asked) -> str:
    """What an entry shares with those of the same samples: their sample, their batch, or their file."""
    of_file = entry.name if entry.key is not None and not any(":" in text for text in asked.names) else ""
    return entry.named.sample or entry.named.batch or of_file


def _block(entries: Sequence[Entry], asked: Asked) -> Block:
    first = entries[0]
    sizes, widths = ({asked.size(axis, entry.shape) for entry in entries} for axis in ("sample", "feature"))
    if len(sizes) > 1 or len(widths) > 1:
        raise ActstoreError(f"{first} and others of its samples: {sorted(sizes)} samples, widths {sorted(widths)}")
    whole = "position" in asked.axes and not asked.roles and first.named.role is None
    positions = {ALL: np.arange(asked.size("position", first.shape))} if whole else {}
    return Block(str(first), sizes.pop(), partial(_read, entries, asked), positions, sample=first.named.sample)


def _places(entry: Entry, asked: Asked) -> Iterator[tuple[str, int, int, slice]]:
    """Roles and layers of an array, each with its index among the array's layers and the positions that are its."""
    named = [entry.named.layer] if entry.named.layer is not None else asked.layers[:1]
    layers = asked.layers if "layer" in asked.axes else named
    roles = [entry.named.role] if entry.named.role else asked.roles or [ALL]
    for index, layer in enumerate(layers):
        if not asked.layers or layer in asked.layers:
            for place, role in enumerate(roles):
                yield role, layer, index, slice(None) if len(roles) == 1 else slice(place, place + 1)


def _read(entries: Sequence[Entry], asked: Asked) -> Vectors:
    found: dict[tuple[str, int], Array] = {}
    origins: dict[tuple[str, int], Entry] = {}
    arrays = {file: read(file) for file in dict.fromkeys(entry.file for entry in entries)}
    for entry in entries:
        whole = _ordered(arrays[entry.file][entry.key], entry, asked)
        for role, layer, index, positions in _places(entry, asked):
            array, point = whole[index][:, positions], (role, layer)
            if point in found and not same(found[point], array):
                raise ActstoreError(
                    f"{origins[point]} and {entry} both are role '{role}' at layer {layer}, with other numbers: say "
                    "with --names what tells them apart, {batch}, {sample} or {role}"
                )
            found[point], origins[point] = array, entry
    return found


def _ordered(array: Array, entry: Entry, asked: Asked) -> Array:
    """An array with all axes: layer, sample, position, feature."""
    if shape_of(array) != entry.shape:
        raise ActstoreError(f"{entry} has changed since it was looked at")
    axes = list(asked.axes)
    for axis in AXES:
        if axis not in axes:
            array, axes = array[None], [axis, *axes]
    order = [axes.index(axis) for axis in ("layer", "sample", "position", "feature")]
    return array.permute(order) if hasattr(array, "permute") else array.transpose(order)


def _columns(blocks: Sequence[Block], names: Sequence[str]) -> pl.DataFrame | None:
    """The names of samples, and of the files or batches that they are from where there are several."""
    if blocks[0].sample is not None:
        return pl.DataFrame({"sample_id": [block.sample for block in blocks]})
    if len(blocks) == 1:
        return None
    sources = [name for name, block in zip(names, blocks, strict=True) for _ in range(block.n)]
    return pl.DataFrame({"source": sources})
