"""Steers: conditions in which a vector is added to the residual stream, or put in its place, while the model runs."""

from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import Field, field_serializer, field_validator, model_validator

from actstore.format.given import suffix_of
from actstore.storage import local
from actstore_extract.interventions.conditions import Condition, ConditionError, RoleSection, Steer, checked

__all__ = ["SteerSection"]

_COLUMN = "layer_"  # of vectors that `actstore export` writes, followed by their layer


class SteerSection(RoleSection):
    """Steering: at one token position a vector is added to the residual stream, or put in its place. Each layer N is a
    condition of its own, NAME-lN, and NAME-lN-sX where there are several scales X."""

    kind: ClassVar[str] = "steer"
    done: ClassVar[str] = "steered"

    steer: Annotated[str, Field(examples=["eoi"])] = ""
    """The position, a role. A name ROLE-steer says it too."""
    layers: Annotated[Literal["all"] | list[int], Field(examples=[[6]])]
    """At which points of the residual stream (0 to L), each a condition of its own."""
    vector: Annotated[str, Field(examples=["seven.parquet"])]
    """A file of vectors, whose mean is added: .npy (d,) or (n, d), or .parquet with a column layer_N for each layer, as
    actstore export writes both."""
    minus: Annotated[str | None, Field(examples=["others.parquet"])] = None
    """A file of vectors whose mean is taken from that first."""
    mode: Annotated[Literal["add", "replace"], Field(examples=["replace"])] = "add"
    """Whether the vector is added, or takes the place of what is there."""
    scale: Annotated[float | list[float], Field(examples=[[1.0, 4.0]])] = 1.0
    """What the vector is multiplied by; of a list each is a condition of its own."""
    generated: bool = False
    """Steer every token that the model says, too."""
    sha256: Annotated[str | None, Field(examples=["0" * 64])] = None
    """Of the files, filled in when a store keeps the recipe: files that are others since are refused."""

    @field_validator("steer")
    @classmethod
    def _canonical(cls, name: str) -> str:
        return cls.role_name(name)

    @model_validator(mode="after")
    def _sensible(self) -> "SteerSection":
        if self.layers == [] or self.scale == []:
            raise ValueError("no layers or no scales: nothing to be steered")
        if self.layers != "all" and any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers {self.layers}: they are counted from 0")
        return self

    @field_serializer("sha256")
    def _of_the_files(self, given: str | None) -> str:
        return given or sha256(b"".join(self._bytes(name) for name in self._files())).hexdigest()

    def _check_files(self) -> None:
        if self.sha256 not in (None, self._of_the_files(None)):
            raise ConditionError(
                f"condition '{self.name}': {' or '.join(self._files())} is another file than the recipe says"
            )

    def _files(self) -> list[str]:
        return [self.vector] if self.minus is None else [self.vector, self.minus]

    def _bytes(self, name: str) -> bytes:
        try:
            return local.content(Path(name))
        except OSError as error:
            raise ConditionError(
                f"condition '{self.name}': {name} cannot be read: {error.strerror or error}; write vectors there with: "
                f'actstore export STORE "from rows where ..." --layer N -o {name}'
            ) from None

    def conditions(self, *, n_layers: int, seed: int) -> list[Condition]:
        """One condition for each layer and scale."""
        layers = list(range(n_layers + 1)) if self.layers == "all" else self.layers
        scales = [("", self.scale)] if isinstance(self.scale, float) else [(f"-s{one:g}", one) for one in self.scale]
        self._check_files()
        return [
            Condition(f"{self.name}-l{layer}{ending}", steer=self._steer(layer, scale), seed=seed)
            for layer in checked(self.name, layers, n_layers, n_layers)
            for ending, scale in scales
        ]

    def _steer(self, layer: int, scale: float) -> Steer:
        vector = self._mean(self.vector, layer)
        if self.minus is not None:
            less = self._mean(self.minus, layer)
            if less.shape != vector.shape:
                raise ConditionError(
                    f"condition '{self.name}': vectors of {len(vector)} numbers in {self.vector}, of {len(less)} in "
                    f"{self.minus}"
                )
            vector = vector - less
        return Steer(self.steer, layer, self.mode, scale, self.generated, tuple(self._files()), vector)

    def _mean(self, name: str, layer: int) -> NDArray[np.float32]:
        """The mean (d,) of the vectors in a file at a layer."""
        content = BytesIO(self._bytes(name))
        kind = _READERS.get(suffix_of(name))
        if kind is None:
            raise ConditionError(f"condition '{self.name}': {name} is neither .npy nor .parquet")
        try:
            found = np.atleast_2d(kind(content, layer))
        except (OSError, ValueError, EOFError, MemoryError, pl.exceptions.PolarsError) as error:
            raise ConditionError(f"condition '{self.name}': {name}: {error}") from None
        if found.ndim != 2 or not found.size or found.dtype.kind not in "fiu":
            raise ConditionError(
                f"condition '{self.name}': {name} holds {found.dtype} of shape {found.shape}; vectors (n, d) are wanted"
            )
        mean: NDArray[np.float32] = found.mean(axis=0, dtype=np.float64).astype(np.float32)
        if not np.isfinite(mean).all():
            raise ConditionError(f"condition '{self.name}': {name} holds numbers that are not finite")
        return mean


def _npy(content: BytesIO, layer: int) -> NDArray[np.generic]:  # noqa: ARG001
    found = np.load(content, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("it holds several arrays")
    return found


def _parquet(content: BytesIO, layer: int) -> NDArray[np.generic]:
    """The column of the layer, or the only one there is."""
    columns = [name for name in pl.read_parquet_schema(content) if name.startswith(_COLUMN)]
    name = f"{_COLUMN}{layer}" if len(columns) != 1 else columns[0]
    if name not in columns:
        raise ValueError(f"no column {name}, only {', '.join(columns) or 'others'}")
    content.seek(0)
    return np.array(pl.read_parquet(content, columns=[name])[name].to_list(), np.float32)


_READERS = {".npy": _npy, ".parquet": _parquet}
