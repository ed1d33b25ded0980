"""saev's shards: raw float32 [example, layer, token, d] of a vision transformer, and metadata.json that says so."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actstore.errors import ActstoreError
from actstore_extract.run.importing.source import Block, Source, Vectors

__all__ = ["source"]

METADATA, SHARDS = "metadata.json", "shards.json"
COUNTS = ("n_ex", "n_examples", "n_imgs")  # examples, of all or of a shard
# What versions of the protocol call the same: 2.1, 2.0, 1.
NAMES = {
    "ckpt": ("ckpt", "vit_ckpt"),
    "tokens": ("content_tokens_per_example", "patches_per_ex", "n_patches_per_img"),
    "d_model": ("d_model", "d_vit"),
    "n": COUNTS,
    "budget": ("max_tokens_per_shard", "patches_per_shard", "max_patches_per_shard", "n_patches_per_shard"),
}
FILE = re.compile(r"acts\d{6,}\.bin")
CLS, PATCHES = "cls", "image"


def source(path: Path) -> Source:
    """The shards in a folder; block l of `layers` is residual point l + 1.

    Raises ActstoreError for shards that are not of the size that the metadata say, or were never filled.
    """
    said = _json(path / METADATA)
    facts = {name: _fact(said, name, path) for name in NAMES}
    layers = said.get("layers")
    if not isinstance(layers, list) or not layers or not all(isinstance(one, int) for one in layers):
        raise ActstoreError(f"{path / METADATA}: no list of layers")
    if layers != sorted(set(layers)) or layers[0] < 0:
        raise ActstoreError(
            f"{path / METADATA}: layers {layers} are not ascending from 0: saev stores them in the order of the "
            "forward, whatever the list says, and which is which cannot be known"
        )
    if said.get("dtype", "float32") != "float32":
        raise ActstoreError(f"{path / METADATA}: numbers of {said['dtype']}; shards are read as float32")
    cls = bool(said.get("cls_token"))
    tokens = facts["tokens"] + cls
    shape = (len(layers), tokens, facts["d_model"])
    sizes = _sizes(path, facts["n"], max(1, facts["budget"] // (tokens * len(layers))))
    blocks = []
    for name, n in sizes.items():
        _check_size(path / name, n, shape)
        positions = {CLS: np.arange(1), PATCHES: np.arange(1, tokens)} if cls else {}
        blocks.append(Block(name, n, partial(_read, path / name, n, shape, layers, cls), positions))
    card = {"model": facts["ckpt"], "family": said.get("family") or said.get("vit_family")}
    notes = [f"{PATCHES} are the patches{', cls the class token' if cls else ''}, block l is residual point l + 1"]
    files = [path / METADATA, *(path / name for name in sizes)]
    modalities = {CLS: "special", PATCHES: "image"}
    return Source(blocks, [layer + 1 for layer in layers], files, None, card, notes, modalities=modalities)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise ActstoreError(f"{path} does not exist: shards of saev are a folder that has it") from None
    except ValueError as error:
        raise ActstoreError(f"{path}: cannot be read ({error}); perhaps its copy was cut") from None


def _fact(said: Any, name: str, path: Path) -> Any:
    found = next((said[one] for one in NAMES[name] if isinstance(said, Mapping) and one in said), None)
    if not (isinstance(found, str) if name == "ckpt" else isinstance(found, int) and found > 0):
        raise ActstoreError(f"{path / METADATA}: {' or '.join(NAMES[name])} is {found!r}; it is not saev's")
    return found


def _sizes(path: Path, n: int, most: int) -> dict[str, int]:
    """Examples of each shard, by its file."""
    if (path / SHARDS).exists():
        sizes = dict(_listed(_json(path / SHARDS), path / SHARDS))
    else:
        counts = [most] * (n // most) + [n % most] * (n % most > 0)
        sizes = {f"acts{number:06d}.bin": count for number, count in enumerate(counts)}
    if sum(sizes.values()) != n:
        raise ActstoreError(f"{path}: shards of {sum(sizes.values())} examples, metadata of {n}; the run did not end")
    return sizes


def _listed(shards: Any, path: Path) -> Iterator[tuple[str, int]]:
    for one in shards if isinstance(shards, list) else [None]:
        name = one.get("name") if isinstance(one, dict) else None
        n = next((one[key] for key in COUNTS if key in one), None) if isinstance(one, dict) else None
        if not isinstance(name, str) or not FILE.fullmatch(name) or not isinstance(n, int) or n < 1:
            raise ActstoreError(f"{path}: {one!r} names no shard (acts000000.bin) with its number of examples")
        yield name, n


def _check_size(path: Path, n: int, shape: tuple[int, ...]) -> None:
    """Raise ActstoreError unless a shard has room for its examples; the last may have room for more."""
    needed = 4 * n * math.prod(shape)
    if not path.is_file():
        raise ActstoreError(f"{path} does not exist: a shard is missing")
    if (found := path.stat().st_size) < needed or found % (4 * math.prod(shape)):
        raise ActstoreError(
            f"{path}: {found} bytes, {n} examples {shape} take {needed}; its copy was cut, or metadata are of others"
        )


def _read(path: Path, n: int, shape: tuple[int, ...], layers: list[int], cls: bool) -> Vectors:
    whole = np.memmap(path, np.float32, "r", shape=(n, *shape))
    found: dict[tuple[str, int], Any] = {}
    for place, layer in enumerate(layers):
        found[PATCHES, layer + 1] = whole[:, place, int(cls) :]
        if cls:
            found[CLS, layer + 1] = whole[:, place, :1]
    return found
