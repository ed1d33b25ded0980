"""easyroutine's activations: a folder with tensor.pt, the cache of a run, and metadata.json, what was asked for."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from actstore.creation.roles import role_of
from actstore.errors import ActstoreError
from actstore_extract.run.importing.files import Array
from actstore_extract.run.importing.names import EASYROUTINE, Pattern
from actstore_extract.run.importing.source import Block, Source, check_points, same, shape_of
from actstore_extract.saved import load_torch

__all__ = ["source"]

TENSORS, METADATA = "tensor.pt", "metadata.json"
ROLES = {"end-image": "eoi"}  # what both have, under another name here
PATTERNS = tuple(map(Pattern, EASYROUTINE))
ABOUT = ("metadata", "mapping_index", "token_dict", "offset")  # of the cache, what is no activation
AVERAGED = "info"  # in mapping_index, where positions were averaged


class _Plain:
    """In the place of one of easyroutine's classes: what its instance held, and none of its code."""

    def __init__(self) -> None:
        self.held: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        plain, slots = state if isinstance(state, tuple) else (state, None)
        self.held = {**(plain or {}), **(slots or {})}


def _nothing(*_: object) -> None:
    """In the place of compiled patterns, which nothing here needs."""


CLASSES: dict[str, Callable[..., Any]] = {
    "easyroutine.interpretability.activation_cache.ActivationCache": _Plain,
    "easyroutine.interpretability.activation_cache.ValueWithInfo": _Plain,
    "re._compile": _nothing,
    "re.RegexFlag": _nothing,
}


def source(path: Path) -> Source:
    """The run in a folder that easyroutine's ActivationSaver made; resid_in_l is point l, resid_out_l point l + 1.

    Raises ActstoreError where the cache does not say which positions its vectors are of.
    """
    folder = path.parent if path.is_file() else path
    metadata = _metadata(folder / METADATA)
    cache = _cache(folder / TENSORS)
    vectors, others = _vectors(cache, folder)
    n, width = shape_of(next(iter(vectors.values())))[:2]
    roles = _roles(cache, metadata, width, folder)
    named = {token: _role(token, averaged=AVERAGED in cache.get("mapping_index", {})) for token in roles}
    if len(set(named.values())) < len(named):
        raise ActstoreError(f"{folder}: positions {', '.join(named)} would not all be roles of their own")
    points = {
        (named[token], layer): array[:, places] for token, places in roles.items() for layer, array in vectors.items()
    }
    changed = {token: role for token, role in named.items() if token != role}
    said = [f"{token} is the role {role}" for token, role in changed.items()]
    if others:
        said.append(f"left out, as no residual points: {', '.join(others)}")
    block = Block(folder.name, n, partial(dict, points), _positions(cache, named, n, roles))
    files = [folder / TENSORS, folder / METADATA]
    card = {"model": metadata.get("model_name"), "interventions": metadata.get("interventions")}
    card = {name: value for name, value in card.items() if value}
    return Source([block], check_points({block.name: points}), files, None, card, said, changed)


def _metadata(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ActstoreError(f"{path} does not exist: a run of easyroutine has {TENSORS} and {METADATA}") from None
    except ValueError as error:
        raise ActstoreError(f"{path}: cannot be read ({error}); perhaps its copy was cut") from None
    if not isinstance(found, dict):
        raise ActstoreError(f"{path} is not what easyroutine writes")
    return found


def _cache(path: Path) -> Mapping[str, Any]:
    held = load_torch(path, CLASSES)
    cache = held.held.get("cache") if isinstance(held, _Plain) else held
    if not isinstance(cache, Mapping):
        raise ActstoreError(f"{path} holds {type(cache).__name__}, not a cache of activations by name")
    return cache


def _vectors(cache: Mapping[str, Any], folder: Path) -> tuple[dict[int, Array], list[str]]:
    """The residual points (n, k, d) by layer, and the names of what else is there."""
    found: dict[int, Array] = {}
    others = []
    for name, value in cache.items():
        said = next((said for pattern in PATTERNS if (said := pattern.match(name, None))), None)
        if said is None or said.layer is None:
            others += [name] if name not in ABOUT else []
            continue
        array = value.held.get("_value") if isinstance(value, _Plain) else value
        if not hasattr(array, "detach") or len(shape_of(array)) != 3:
            raise ActstoreError(
                f"{folder}: {name} is no tensor (samples, positions, d), but {_kind(array)}: batches had other numbers "
                "of positions, and the cache says of the last one alone which is which; extract those positions one "
                "by one, or samples of one length"
            )
        if said.layer in found and not same(found[said.layer], array):
            raise ActstoreError(f"{folder}: {name} is not the residual point that its neighbour is; was one patched?")
        found[said.layer] = array
    if not found:
        raise ActstoreError(f"{folder}: no residual points (resid_in_, resid_out_) are in it, only {', '.join(others)}")
    if len({shape_of(array) for array in found.values()}) > 1:
        shapes = ", ".join(f"layer {layer}: {shape_of(array)}" for layer, array in found.items())
        raise ActstoreError(f"{folder}: residual points of several shapes ({shapes}); its copy may be a mixture")
    return found, others


def _kind(value: object) -> str:
    return f"a tensor {shape_of(value)}" if hasattr(value, "detach") else type(value).__name__


def _roles(cache: Mapping[str, Any], metadata: Mapping[str, Any], width: int, folder: Path) -> dict[str, list[int]]:
    """Which of the positions are each token's, by easyroutine's names."""
    mapping = cache.get("mapping_index")
    if mapping is None:
        tokens = [str(token) for token in metadata.get("target_token_positions") or ()]
        if len(tokens) != width:
            raise ActstoreError(
                f"{folder}: vectors of {width} positions, {len(tokens)} are named in target_token_positions, and no "
                "mapping_index says which is which"
            )
        return {token: [place] for place, token in enumerate(tokens)}
    found = {str(token): list(map(int, places)) for token, places in mapping.items() if token != AVERAGED}
    held = sorted(place for places in found.values() for place in places)
    if held != list(range(width)):
        raise ActstoreError(f"{folder}: mapping_index names positions {held}, the vectors have {width}")
    return found


def _role(token: str, *, averaged: bool) -> str:
    """The role of a token or of the mean over several; a position by number is at-P.

    >>> _role("end-image", averaged=False), _role("all-image", averaged=True), _role("-1", averaged=False)
    ('eoi', 'all-image-avg', 'last')
    """
    role = ROLES.get(token, token)
    if re.fullmatch(r"-?\d+", token):
        role = f"at-{token}" if int(token) >= 0 else "last" if int(token) == -1 else f"last-{-int(token)}"
    return role_of(role) + "-avg" * averaged


def _positions(
    cache: Mapping[str, Any], named: Mapping[str, str], n: int, roles: Mapping[str, Sequence[int]]
) -> dict[str, NDArray[np.int64]]:
    """Positions (n, k) in the samples, where each forward was of one sample and they are told."""
    told = cache.get("token_dict")
    if AVERAGED in cache.get("mapping_index", {}) or not isinstance(told, list) or len(told) != n:
        return {}
    return dict(_told(told, named, roles))


def _told(
    told: Sequence[Mapping[str, Any]], named: Mapping[str, str], roles: Mapping[str, Sequence[int]]
) -> Iterator[tuple[str, NDArray[np.int64]]]:
    for token, role in named.items():
        found = [one.get(token) for one in told if isinstance(one, Mapping)]
        if all(isinstance(places, list) and len(places) == len(roles[token]) for places in found) and len(found) == len(
            told
        ):
            made = np.array(found, np.int64)
            if (made >= 0).all():
                yield role, made
