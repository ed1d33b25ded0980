"""The files and releases that hold a sparse autoencoder: sae-lens' folders and releases, Gemma Scope's params.npz."""

import json
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from actstore.errors import ActstoreError, nearest
from actstore.storage.local import crc32c
from actstore_analyze.devices import Device
from actstore_analyze.sae.active import above, active, decoded
from actstore_analyze.sae.configuration import Configuration
from actstore_analyze.sae.hook import Hook, refused_of
from actstore_analyze.sae.measure import Autoencoder, Rebuilt
from actstore_analyze.sae.there import There

if TYPE_CHECKING:
    from sae_lens import SAE

__all__ = ["Entry", "JumpRelu", "LensFolder", "Released", "ScopeFile", "Sized", "released_ids"]

Features = NDArray[np.float32]
FOLDED = ("expected_average_only_in", "covariance_whitening")  # ways to normalise whose factor goes into the weights
SCALER = "activation_scaler.json"  # beside the weights in a checkpoint of sae-lens
# Releases whose ids and files say nothing else of their place.
ELSEWHERE = re.compile(
    r"gemma-scope-[\w.-]*?-(?:mlp|att|transcoders?|clt)(?![a-z])|llama_scope_lx[am]_\w+|\w+-transcoders"
)


class Sized(Autoencoder, Protocol):
    """An autoencoder that says its widths."""

    @property
    def d_in(self) -> int:
        """Dimensions of a vector."""

    @property
    def n_features(self) -> int:
        """Features, active or not."""

    def rebuild(self, x: NDArray[np.floating], /) -> Rebuilt:
        """As `decode` after `encode`, with the number of active features of each vector (n,)."""


class Loaded(Sized, Protocol):
    """One that can be put on a device."""

    def on(self, device: Device, /) -> There:
        """The same there; this one is not to be used any more."""


class Entry(Protocol):
    """One autoencoder that can be loaded."""

    @property
    def hook(self) -> Hook | None:
        """Where it was trained, as far as can be said before it is loaded; raises ActstoreError for another place."""

    @property
    def said(self) -> Hook | None:
        """Where its configuration says that it was trained; that of a release may be downloaded for it."""

    @property
    def fingerprint(self) -> str:
        """Changes with its weights."""

    def load(self) -> Loaded:
        """Its weights, read."""


@dataclass(frozen=True)
class LensFolder:
    """A folder that sae-lens saved: cfg.json, sae_weights.safetensors, and factors of a normalisation not folded in."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def configuration(self) -> Configuration:
        """What cfg.json says."""
        try:
            config = json.loads((self.path / "cfg.json").read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ActstoreError(f"{self.path / 'cfg.json'}: cannot be read: {error}") from None
        return Configuration.of(str(self), config)

    @property
    def hook(self) -> Hook | None:
        """Where cfg.json says."""
        return self.configuration.hook

    @property
    def said(self) -> Hook | None:
        """The same."""
        return self.hook

    @property
    def fingerprint(self) -> str:
        """Of configuration and weights, and of a factor that is put into them."""
        kind = self.configuration.said.get("normalize_activations")
        normalised = [kind] if kind in FOLDED else []
        return "-".join([*normalised, *(crc32c(file) for file in sorted(self.path.iterdir()) if file.is_file())])

    def load(self) -> Loaded:
        """In float32."""
        with _by_sae_lens(self):
            return _Lens(_folded(_sae_lens().load_from_disk(self.path, dtype="float32"), self.path), str(self))


@dataclass(frozen=True)
class Released:
    """An autoencoder that sae-lens downloads, or has already."""

    release: str
    sae_id: str

    def __str__(self) -> str:
        return f"{self.release} {self.sae_id}"

    @property
    def hook(self) -> Hook | None:
        """What its id says; the default is post."""
        if match := re.search(r"resid_(pre|post)", self.sae_id):
            return Hook(match[1])
        if match := re.search(r"(?:blocks\.\d+\.)?hook_\w+", self.sae_id) or ELSEWHERE.search(self.release):
            raise refused_of(match[0], self)
        return None

    @cached_property
    def said(self) -> Hook | None:
        """What sae-lens says of it."""
        _sae_lens()
        from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

        with _by_sae_lens(self):
            return Configuration.of(str(self), load_sae_config_from_huggingface(self.release, self.sae_id)).hook

    @property
    def fingerprint(self) -> str:
        """A release does not change."""
        return self.sae_id

    def load(self) -> Loaded:
        """In float32."""
        with _by_sae_lens(self):
            return _Lens(_folded(_sae_lens().from_pretrained(self.release, self.sae_id)), str(self))


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


@contextmanager
def _by_sae_lens(entry: Entry) -> Iterator[None]:
    """What sae-lens cannot read is said in one line; its warnings are not: what they are about is obeyed or refused."""
    from safetensors import SafetensorError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        if isinstance(error, ActstoreError):
            raise
        raise ActstoreError(f"{entry}: sae-lens cannot load it: {_first_line(error)}") from None


def _folded(sae: "SAE[Any]", folder: Path | None = None) -> "SAE[Any]":
    """The autoencoder with what its training vectors were multiplied by in its weights.

    sae-lens keeps the factor of a checkpoint beside it, and knows that of a release.
    """
    scaling, whitening = (None, None) if folder is None or not (folder / SCALER).is_file() else _kept(folder / SCALER)
    kind = sae.cfg.normalize_activations
    for name, factor in zip(FOLDED, (scaling, whitening), strict=True):
        if kind == name and factor is None:
            raise ValueError(f"it reads vectors normalised by {name}, and the factor is not beside it ({SCALER})")
        if kind != name and factor is not None:
            raise ValueError(f"{SCALER} has a factor of {name}, but the configuration says normalisation {kind}")
    if scaling is not None:
        sae.fold_activation_norm_scaling_factor(scaling)
    if whitening is not None:
        sae.fold_activation_whitening(whitening.mean, whitening.matrix, whitening.inverse_matrix)
    return sae


def _kept(file: Path) -> tuple[float | None, Any]:
    """The factor and the whitening of a checkpoint, as sae-lens reads them."""
    from sae_lens.training.activation_scaler import ActivationScaler

    scaler = ActivationScaler()
    scaler.load(file)
    return scaler.scaling_factor, getattr(scaler, "whitening", None)


def _finite(owner: object, weights: Iterable[tuple[str, NDArray[np.floating]]]) -> None:
    """Raise ActstoreError for NaN, and for infinity but in thresholds and biases of features that are switched off."""
    for name, values in weights:
        bad = np.isnan(values) if name in ("threshold", "b_enc") else ~np.isfinite(values)
        if bad.any():
            raise ActstoreError(f"{owner}: {int(bad.sum())} of {bad.size} values of {name} are NaN or infinite")


class _Lens:
    """An autoencoder of sae-lens, for arrays."""

    def __init__(self, sae: "SAE[Any]", owner: str) -> None:
        self._sae = sae.eval()
        self.d_in, self.n_features = int(sae.cfg.d_in), int(sae.cfg.d_sae)
        _finite(owner, ((name, self._numbers(value)) for name, value in sae.state_dict().items()))
        self._decoder = self._affine()

    def encode(self, x: NDArray[np.floating], /) -> Features:
        import torch

        with torch.no_grad():
            return self._numbers(self._sae.encode(torch.from_numpy(np.asarray(x, np.float32))))

    def decode(self, features: NDArray[np.floating], /) -> Features:
        import torch

        with torch.no_grad():
            return self._numbers(self._sae.decode(torch.from_numpy(np.asarray(features, np.float32))))

    def rebuild(self, x: NDArray[np.floating], /) -> Rebuilt:
        features = self.encode(x)
        if self._decoder is None:
            return np.count_nonzero(features, axis=1), self.decode(features)
        return decoded(active(features), *self._decoder)

    def on(self, device: Device, /) -> There:
        import torch

        sae, without = self._sae.to(device.name), torch.no_grad()
        return There(device, self.d_in, self.n_features, without(lambda x: _dense(sae.encode(x))), without(sae.decode))

    def _affine(self) -> tuple[Features, Features] | None:
        """The weights (n_features, d) and bias (d,) that decoding is, None where it is more: it is tried."""
        if self._sae.cfg.normalize_activations != "none":
            return None
        weights, bias = (self._numbers(getattr(self._sae, name).detach()) for name in ("W_dec", "b_dec"))
        tried = np.zeros((4, self.n_features), np.float32)
        tried[np.arange(4), np.arange(4) % self.n_features] = 1 + np.arange(4)
        same = np.allclose(self.decode(tried), tried @ weights + bias, rtol=1e-4, atol=1e-6)
        return (weights, bias) if same else None

    @staticmethod
    def _numbers(tensor: Any) -> Features:
        numbers: Features = _dense(tensor).numpy()
        return numbers


def _dense(tensor: Any) -> Any:
    return tensor.to_dense() if tensor.is_sparse else tensor


@dataclass(frozen=True)
class ScopeFile:
    """Gemma Scope's own file: params.npz of an autoencoder with a threshold for each feature."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def hook(self) -> Hook | None:
        """Gemma Scope reads the output of a block; its other repositories have files of the same name and shape."""
        if match := ELSEWHERE.search(str(self.path.absolute())):
            raise refused_of(match[0], self)
        return Hook("post")

    @property
    def said(self) -> Hook | None:
        """The same."""
        return self.hook

    @property
    def fingerprint(self) -> str:
        """Of the file."""
        return crc32c(self.path)

    def load(self) -> Loaded:
        """In float32."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")
        try:
            loaded = np.load(self.path, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                raise ValueError("it holds one array")
            with loaded as file:
                more = sorted(set(file.files) - set(names))
                weights = {name: np.asarray(file[name], np.float32) for name in names}
        except (OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, BadZipFile) as error:
            raise ActstoreError(f"{self.path}: not a params.npz of Gemma Scope: {_first_line(error)}") from None
        if more:
            raise ActstoreError(f"{self.path}: it has {', '.join(more)} too: no autoencoder of the residual stream")
        d, features = weights["W_enc"].shape if weights["W_enc"].ndim == 2 else (0, 0)
        shapes = ((d, features), (features,), (features, d), (d,), (features,))
        for name, shape in zip(names, shapes, strict=True):
            if weights[name].shape != shape:
                raise ActstoreError(f"{self.path}: {name} of shape {weights[name].shape}, not {shape} as W_enc says")
        _finite(self, weights.items())
        return JumpRelu(weights)


class JumpRelu:
    """An autoencoder whose features count above their threshold (Gemma Scope), without sae-lens and torch."""

    def __init__(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        self.weights = weights
        self.d_in, self.n_features = weights["W_enc"].shape

    def encode(self, x: NDArray[np.floating], /) -> Features:
        """Features (n, n_features) of vectors (n, d)."""
        features: Features = self._active(x).toarray()
        return features

    def decode(self, features: NDArray[np.floating], /) -> Features:
        """Vectors (n, d) of features."""
        rebuilt: Features = np.asarray(features, np.float32) @ self.weights["W_dec"] + self.weights["b_dec"]
        return rebuilt

    def rebuild(self, x: NDArray[np.floating], /) -> Rebuilt:
        """How many features are active on each vector (n,), and the vectors of them (n, d)."""
        return decoded(self._active(x), self.weights["W_dec"], self.weights["b_dec"])

    def on(self, device: Device, /) -> There:
        """The same on a device."""
        own = {name: device.put(one) for name, one in self.weights.items()}
        least = device.put(np.maximum(self.weights["threshold"], 0))

        def features(x: Any) -> Any:
            raw = x @ own["W_enc"] + own["b_enc"]
            return device.xp.where(raw > least, raw, 0)

        return There(device, self.d_in, self.n_features, features, lambda found: found @ own["W_dec"] + own["b_dec"])

    def _active(self, x: NDArray[np.floating]) -> csr_array:
        raw = np.asarray(x, np.float32) @ self.weights["W_enc"]
        return above(raw, self.weights["b_enc"], np.maximum(self.weights["threshold"], 0))


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
