"""The files and releases that hold a sparse autoencoder: sae-lens' folders and releases, Gemma Scope's params.npz."""

import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from actstore.errors import ActstoreError, nearest
from actstore.storage.local import crc32c
from actstore_analyze.sae.measure import Autoencoder

if TYPE_CHECKING:
    from sae_lens import SAE

__all__ = ["Entry", "JumpRelu", "LensFolder", "Released", "ScopeFile", "Sized", "released_ids"]

Features = NDArray[np.float32]


class Sized(Autoencoder, Protocol):
    """An autoencoder that says its widths."""

    @property
    def d_in(self) -> int:
        """Dimensions of a vector."""

    @property
    def n_features(self) -> int:
        """Features, active or not."""


class Entry(Protocol):
    """One autoencoder that can be loaded."""

    @property
    def hook(self) -> str | None:
        """`pre` or `post` where it says so itself."""

    @property
    def fingerprint(self) -> str:
        """Changes with its weights."""

    def load(self) -> Sized:
        """Its weights, read."""


@dataclass(frozen=True)
class LensFolder:
    """A folder that sae-lens saved: cfg.json and sae_weights.safetensors."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def hook(self) -> str | None:
        """What cfg.json says, in the words of any version of sae-lens."""
        try:
            config: dict[str, Any] = json.loads((self.path / "cfg.json").read_bytes())
        except (OSError, ValueError) as error:
            raise ActstoreError(f"{self.path / 'cfg.json'}: cannot be read: {error}") from None
        return _hook(config.get("hook_name") or (config.get("metadata") or {}).get("hook_name"))

    @property
    def fingerprint(self) -> str:
        """Of configuration and weights."""
        return "-".join(crc32c(file) for file in sorted(self.path.iterdir()) if file.is_file())

    def load(self) -> Sized:
        """In float32."""
        try:
            return _Lens(_sae_lens().load_from_disk(self.path, dtype="float32"))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ActstoreError(f"{self.path}: sae-lens cannot load it: {_first_line(error)}") from None


@dataclass(frozen=True)
class Released:
    """An autoencoder that sae-lens downloads, or has already."""

    release: str
    sae_id: str

    def __str__(self) -> str:
        return f"{self.release} {self.sae_id}"

    @property
    def hook(self) -> str | None:
        """What its id says; the default is post."""
        return _hook(self.sae_id)

    @property
    def fingerprint(self) -> str:
        """A release does not change."""
        return self.sae_id

    def load(self) -> Sized:
        """In float32."""
        try:
            return _Lens(_sae_lens().from_pretrained(self.release, self.sae_id))
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ActstoreError(f"{self}: sae-lens cannot load it: {_first_line(error)}") from None


def released_ids(release: str) -> list[str]:
    """The ids of a release that sae-lens knows; nothing is downloaded."""
    _sae_lens()
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    known = get_pretrained_saes_directory()
    if release not in known:
        raise ActstoreError(f"sae-lens has no release '{release}'{nearest(release, list(known))}")
    return list(known[release].saes_map)


def _sae_lens() -> "type[SAE[Any]]":
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The 'utils' module has been deprecated", DeprecationWarning)
        from sae_lens import SAE
    loader: type[SAE[Any]] = SAE
    return loader


class _Lens:
    """An autoencoder of sae-lens, for arrays."""

    def __init__(self, sae: "SAE[Any]") -> None:
        self._sae = sae.eval()
        self.d_in, self.n_features = int(sae.cfg.d_in), int(sae.cfg.d_sae)

    def encode(self, x: NDArray[np.floating], /) -> Features:
        import torch

        with torch.no_grad():
            return self._numbers(self._sae.encode(torch.from_numpy(np.asarray(x, np.float32))))

    def decode(self, features: NDArray[np.floating], /) -> Features:
        import torch

        with torch.no_grad():
            return self._numbers(self._sae.decode(torch.from_numpy(np.asarray(features, np.float32))))

    @staticmethod
    def _numbers(tensor: Any) -> Features:
        numbers: Features = (tensor.to_dense() if tensor.is_sparse else tensor).numpy()
        return numbers


@dataclass(frozen=True)
class ScopeFile:
    """Gemma Scope's own file: params.npz of an autoencoder with a threshold for each feature."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def hook(self) -> str | None:
        """Gemma Scope reads the output of a block."""
        return "post"

    @property
    def fingerprint(self) -> str:
        """Of the file."""
        return crc32c(self.path)

    def load(self) -> Sized:
        """In float32."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return JumpRelu({name: np.asarray(file[name], np.float32) for name in names})
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise ActstoreError(f"{self.path}: not a params.npz of Gemma Scope: {_first_line(error)}") from None


class JumpRelu:
    """An autoencoder whose features count above their threshold (Gemma Scope), without sae-lens and torch."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self._weights = weights
        self.d_in, self.n_features = weights["W_enc"].shape

    def encode(self, x: NDArray[np.floating], /) -> Features:
        """Features (n, n_features) of vectors (n, d)."""
        raw = np.asarray(x, np.float32) @ self._weights["W_enc"] + self._weights["b_enc"]
        return np.where(raw > np.maximum(self._weights["threshold"], 0), raw, np.float32(0))

    def decode(self, features: NDArray[np.floating], /) -> Features:
        """Vectors (n, d) of features."""
        rebuilt: Features = np.asarray(features, np.float32) @ self._weights["W_dec"] + self._weights["b_dec"]
        return rebuilt


def _hook(name: str | None) -> str | None:
    """`pre` or `post` of a name such as blocks.5.hook_resid_post.

    >>> _hook("blocks.5.hook_resid_post"), _hook("blocks.5.hook_mlp_out")
    ('post', None)
    """
    match = re.search(r"resid_(pre|post)", name or "")
    return match[1] if match else None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
