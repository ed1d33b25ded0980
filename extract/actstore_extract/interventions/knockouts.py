"""Knockouts: conditions in which some of the model's attention is taken away."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from actstore_extract.interventions.conditions import Condition, ConditionSection, checked
from actstore_extract.roles import RoleError, parse_role

__all__ = ["KnockoutSection"]

# What the Narrow Gate calls all of the image, A_ij with 0 < j < N_EOI; its end is never among it.
_IMAGE = ["boi", "image-size", "image", "eol", "machinery", "at-frame-end"]
# Knockouts whose name does not say it all; ROLE-knockout is that of the text's attention to a role.
_READY: dict[str, dict[str, list[str]]] = {
    "image-knockout": {"keys": _IMAGE},
    "image-image-knockout": {"keys": _IMAGE, "queries": _IMAGE},
}
_EXAMPLES = ["eoi-knockout", *_READY, "last-image-knockout", "at-32-knockout", "random-image-10-knockout"]

_Count = Annotated[int, Field(ge=1)]


class KnockoutSection(ConditionSection):
    """An attention knockout: some token positions (queries) are kept from attending to others (keys).

    A name alone, ROLE-knockout, is one that is ready: the text is kept from attending to that role, in all layers. A
    query that loses every key it could see is blind: it attends to nothing, and the output of its attention is zero.
    """

    keys: Annotated[tuple[str, ...], Field(examples=["eoi"])] = ()
    """The positions that are not attended to: a role, or a list of them. A name ROLE-knockout says it too."""
    queries: Annotated[tuple[str, ...], Field(examples=["last"])] = ("text",)
    """The positions that are kept from it: a role, or a list of them."""
    layers: Annotated[Literal["all"] | list[int], Field(examples=[[10, 11]])] = "all"
    """The blocks in which it is blocked, counted from 0."""
    windows: Annotated[_Count | list[_Count] | None, Field(examples=[4])] = None
    """Instead of layers: several conditions NAME-wN, in each of which the last N blocks are blocked. A number is a step
    (4: N = 4, 8, ... and all), a list says each N."""
    mode: Annotated[Literal["post", "pre"], Field(examples=["pre"])] = "post"
    """"post" takes the weight after the softmax, where it is lost, as the paper does; "pre" before it, so that the
    other keys share it."""
    heads: Annotated[list[Annotated[int, Field(ge=0)]] | None, Field(examples=[[0, 3]])] = None
    """The heads in which it is blocked; without it all."""
    repeats: Annotated[_Count | None, Field(examples=[5])] = None
    """For random roles: so many conditions NAME-r1, NAME-r2, ..., each with a draw of its own."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        """What a ready-made name stands for, filled in: the run card says it all."""
        name = given.get("name")
        if not isinstance(name, str) or "keys" in given or not name.endswith("-knockout"):
            return given
        return {**_READY.get(name, {"keys": name.removesuffix("-knockout")}), **given}

    @field_validator("keys", "queries", mode="before")
    @classmethod
    def _several(cls, roles: object) -> object:
        return [roles] if isinstance(roles, str) else roles

    @field_validator("keys", "queries")
    @classmethod
    def _roles(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        try:
            roles = [parse_role(name) for name in names]
        except RoleError as error:
            raise ValueError(error) from None  # pydantic adds where
        for role in roles:
            if role.is_mean:
                raise ValueError(f"{role.name} is a mean of positions, so no attention goes to or from it")
        return tuple(role.name for role in roles)

    @model_validator(mode="after")
    def _sensible(self) -> "KnockoutSection":
        if not (self.keys and self.queries):
            raise ValueError(f"keys and queries are wanted, or a name that is ready: {', '.join(_EXAMPLES)}")
        if self.windows is not None and self.layers != "all":
            raise ValueError("either layers or windows: windows are the last layers")
        if self.layers != "all" and any(layer < 0 for layer in self.layers):
            raise ValueError(f"layers {self.layers}: blocks are counted from 0; the last ones are windows")
        if self.layers == [] or self.windows == [] or self.heads == []:
            raise ValueError("a list of no layers or heads blocks nothing")
        if self.repeats and not any(name.startswith("random-") for name in (*self.keys, *self.queries)):
            raise ValueError("repeats are for random roles: the others are the same each time")
        return self

    def conditions(self, *, n_layers: int, seed: int) -> list[Condition]:
        """One condition, or one for each window and repeat."""
        draws = [(f"-r{i + 1}", seed + i) for i in range(self.repeats)] if self.repeats else [("", seed)]
        return [
            Condition(f"{self.name}{window}{draw}", blocked=(self._block(layers),), seed=each)
            for window, layers in self._spans(n_layers)
            for draw, each in draws
        ]

    def _block(self, layers: list[int]) -> dict[str, object]:
        block = {"queries": list(self.queries), "keys": list(self.keys), "layers": layers, "mode": self.mode}
        return block if self.heads is None else {**block, "heads": self.heads}

    def _spans(self, n_layers: int) -> list[tuple[str, list[int]]]:
        """What the name ends in, and the blocks."""
        if self.windows is None:
            layers = list(range(n_layers)) if self.layers == "all" else self.layers
            return [("", checked(self.name, layers, n_layers - 1, n_layers))]
        step = self.windows
        sizes = step if isinstance(step, list) else sorted({*range(step, n_layers, step), n_layers})
        checked(self.name, sizes, n_layers, n_layers)
        return [(f"-w{size}", list(range(n_layers - size, n_layers))) for size in sizes]
