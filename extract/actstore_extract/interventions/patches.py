"""Patches: conditions in which vectors of one sample, the source, take the place of another's, the receiver's."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from actstore_extract.interventions.conditions import Condition, Patch, RoleSection, checked
from actstore_extract.roles import Point
from actstore_extract.samples.synsets import papers

__all__ = ["PatchSection"]


class PatchSection(RoleSection):
    """Activation patching: at one token position the vectors of a sample, the receiver, become those of another, its
    source. Each layer N is a condition of its own, NAME-lN."""

    kind: ClassVar[str] = "patch"
    done: ClassVar[str] = "patched"

    patch: Annotated[str, Field(examples=["eoi"])] = ""
    """The position, a role. A name ROLE-patch says it too."""
    point: Annotated[Point, Field(examples=["attention-input"])] = "residual"
    """"residual" puts the vector into the residual stream at layer N alone (0 to L); "attention-input" into what the
    attention reads, in block N and all that follow."""
    layers: Annotated[Literal["all"] | list[int], Field(examples=[[0, 4, 8]])] = "all"
    """At which layers, each a condition of its own."""
    pairs: Annotated[Literal["narrow-gate"] | list[tuple[str, str]], Field(examples=[[("cat", "dog")]])]
    """[source, receiver] classes; the i-th sample of the one class is the source of the i-th of the other.
    "narrow-gate" are that paper's."""
    by: Annotated[str, Field(examples=["wnid"])] = "label"
    """The column that holds the classes of pairs."""

    @field_validator("patch")
    @classmethod
    def _canonical(cls, name: str) -> str:
        return cls.role_name(name)

    @model_validator(mode="after")
    def _sensible(self) -> "PatchSection":
        receivers = [receiver for _, receiver in self._pairs()]
        for receiver in receivers:
            if receivers.count(receiver) > 1:
                raise ValueError(f"'{receiver}' receives twice: give the other pair a condition of its own")
        if not receivers or self.layers == []:
            raise ValueError("no pairs or no layers: nothing to be patched")
        if self.layers != "all" and any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers {self.layers}: they are counted from 0")
        return self

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        return papers().pairs if self.pairs == "narrow-gate" else tuple(self.pairs)

    def conditions(self, *, n_layers: int, seed: int) -> list[Condition]:
        """One condition for each layer."""
        last = n_layers if self.point == "residual" else n_layers - 1
        layers = list(range(last + 1)) if self.layers == "all" else self.layers
        return [
            Condition(f"{self.name}-l{layer}", patch=self._patch(layer, n_layers), seed=seed)
            for layer in checked(self.name, layers, last, n_layers)
        ]

    def _patch(self, layer: int, n_layers: int) -> Patch:
        layers = (layer,) if self.point == "residual" else tuple(range(layer, n_layers))
        return Patch(self.patch, self.point, layers, self._pairs(), self.by)
