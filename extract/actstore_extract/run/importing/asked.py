"""What a user says of arrays that do not say it themselves: names, axes, residual points, roles."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from actstore.errors import ActstoreError
from actstore_extract.run.importing.names import Named

__all__ = ["AXES", "Asked", "Entry"]

AXES = ("sample", "layer", "position", "feature")


class Entry(NamedTuple):
    """One array of a file, by the file's name and its key in it, and what these say."""

    file: Path
    name: str
    key: str | None
    named: Named
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return self.file.name if self.key is None else f"{self.file.name}:{self.key}"


@dataclass(frozen=True)
class Asked:
    """Names, axes, residual points and roles, as far as they are said."""

    names: Sequence[str] = ()
    axes: Sequence[str] = ()
    layers: Sequence[int] = ()
    roles: Sequence[str] = ()

    def of(self, entries: Sequence[Entry], usual: Sequence[str]) -> "Asked":
        """The same of these arrays, with the usual axes where none are said.

        Raises ActstoreError where nothing says what an axis is, which residual points they are of, which positions.
        """
        first, asked = entries[0], replace(self, axes=tuple(self.axes) or tuple(usual))
        if odd := [one for one in entries if one.named.says != first.named.says]:
            raise ActstoreError(
                f"{first} and {odd[0]}: one says a layer, role, sample or batch that the other does not"
            )
        asked._check_axes(entries)
        asked._check_layers(first)
        asked._check_roles(first)
        return asked

    def size(self, axis: str, shape: Sequence[int]) -> int:
        """How long an axis is, 1 where there is none."""
        return shape[self.axes.index(axis)] if axis in self.axes else 1

    def _check_axes(self, entries: Sequence[Entry]) -> None:
        first, said = entries[0], ",".join(self.axes)
        example = ",".join([*AXES[: len(first.shape) - 1], "feature"])
        if not self.axes:
            raise ActstoreError(f"{first} has shape {first.shape}: say what its axes are, such as --axes {example}")
        if bad := [axis for axis in self.axes if axis not in AXES or self.axes.count(axis) > 1]:
            raise ActstoreError(f"--axes {said}: '{bad[0]}' is not one of {', '.join(AXES)}, each once")
        if odd := [one for one in entries if len(one.shape) != len(self.axes)]:
            raise ActstoreError(f"{odd[0]} has shape {odd[0].shape}, the axes are {said}; say others, --axes {example}")
        if "feature" not in self.axes or ("sample" in self.axes) == (first.named.sample is not None):
            raise ActstoreError(f"--axes {said}: feature is one of them, and sample unless names have {{sample}}")

    def _check_layers(self, first: Entry) -> None:
        of_axis, of_name, n = "layer" in self.axes, first.named.layer is not None, len(self.layers)
        if (of_axis and (of_name or not n)) or (not of_axis and not of_name and n != 1):
            raise ActstoreError(
                f"{first}: which residual points is it of? Either names say it (--names), or an axis `layer` does, of "
                "the points in --layers 0,1,..., or all are of one, --layers 12"
            )
        if of_axis and n != self.size("layer", first.shape):
            raise ActstoreError(
                f"{first} has shape {first.shape}: its axis of layers is not as long as --layers, which names {n} "
                "residual points"
            )

    def _check_roles(self, first: Entry) -> None:
        n_positions = self.size("position", first.shape)
        if first.named.role is not None and self.roles:
            raise ActstoreError(f"{first}: its name says a role, and --roles does too; say one")
        known = {0, 1, n_positions} if "position" in self.axes else {1}
        if first.named.role is None and len(self.roles) not in known:
            raise ActstoreError(
                f"{first} has shape {first.shape}, {n_positions} positions of each sample: which are they? Say a role "
                "for all, --roles last, or one for each"
            )
