"""Conditions: under which interventions a recipe runs its samples, as the plan names them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from actstore.errors import ActstoreError, nearest
from actstore_extract.roles import Point, RoleError, parse_role

__all__ = [
    "NONE",
    "Condition",
    "ConditionError",
    "ConditionSection",
    "Patch",
    "RoleSection",
    "Steer",
    "checked",
    "crossed",
    "expand",
]

NONE = "none"  # the model as it is

_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class ConditionError(ActstoreError):
    """This model, or these samples, cannot be run under the condition."""


@dataclass(frozen=True)
class Patch:
    """At `layers`, the vectors of `role` are those of another sample, the source: residual streams that enter the
    block (at L: the final norm), or what the attention of the block reads.

    `pairs` are (source, receiver) values of the column `by`; samples of a pair are matched in their order.
    """

    role: str
    point: Point
    layers: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...]
    by: str = "label"


@dataclass(frozen=True)
class Steer:
    """At `layer`, `scale` times `vector` (d,), made of `files`, is added to the residual stream of `role`, or takes its
    place; with `generated`, at every token that follows the prompt too.
    """

    role: str
    layer: int
    mode: Literal["add", "replace"]
    scale: float
    generated: bool
    files: tuple[str, ...]
    vector: NDArray[np.float32] = field(compare=False, repr=False)

    def card(self) -> dict[str, object]:
        """What the run card says of it."""
        told = {name: value for name, value in vars(self).items() if name not in ("role", "vector")}
        return {"steer": self.role, **told, "norm": float(np.linalg.norm(self.vector))}


@dataclass(frozen=True)
class Condition:
    """One condition of the plan: the attention `blocked`, as `parse_block` takes it, what is patched, what is steered.

    Random roles go by `seed`. `sources` has the source of each sample that receives, once they are known.
    """

    name: str = NONE
    blocked: tuple[Mapping[str, object], ...] = ()
    patch: Patch | None = None
    steer: Steer | None = None
    seed: int = 0
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def card(self) -> list[object]:
        """What the run card says of it."""
        patched = [] if self.patch is None else [vars(self.patch)]
        return [*self.blocked, *patched, *([] if self.steer is None else [self.steer.card()])]


class ConditionSection(BaseModel):
    """A condition as a recipe writes it; of this class itself only "none", the model as it is."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    name: Annotated[str, Field(examples=["eoi-knockout"])]
    """How the condition is called in the store: lower-case letters, digits, single hyphens."""

    @field_validator("name")
    @classmethod
    def _readable(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r}: use lower-case letters, digits and single hyphens")
        return name

    def conditions(self, *, n_layers: int, seed: int) -> list[Condition]:  # noqa: ARG002
        """The conditions that it stands for in a model of that many blocks."""
        return [Condition()]


class RoleSection(ConditionSection):
    """A condition at the positions of one role, which the key `kind` names; ROLE-KIND as a name says it too."""

    kind: ClassVar[str]
    done: ClassVar[str]  # to a position, in words

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name")
        if not isinstance(name, str) or cls.kind in given or not name.endswith(f"-{cls.kind}"):
            return given
        return {cls.kind: name.removesuffix(f"-{cls.kind}"), **given}

    @classmethod
    def role_name(cls, name: str) -> str:
        """The role's own name; raises ValueError for what is no role, and for a mean."""
        try:
            role = parse_role(name)
        except RoleError as error:
            raise ValueError(error) from None  # pydantic adds where
        if role.is_mean:
            raise ValueError(f"{role.name} is a mean of positions: there is nothing to be {cls.done}")
        return role.name


def checked(name: str, numbers: list[int], largest: int, n_layers: int) -> list[int]:
    """The numbers; raises ConditionError for one that is too large."""
    if max(numbers) > largest:
        raise ConditionError(f"condition '{name}': {max(numbers)} is too large for a model of {n_layers} layers")
    return numbers


def expand(sections: Sequence[ConditionSection], *, n_layers: int, seed: int) -> dict[str, Condition]:
    """The conditions by name for a model of that many blocks: the model as it is first, unless it is listed later.

    ConditionError for layers that it does not have, and for a name that occurs twice.

    >>> from actstore_extract.interventions.knockouts import KnockoutSection
    >>> list(expand([KnockoutSection(name="eoi-knockout", windows=4)], n_layers=10, seed=0))
    ['none', 'eoi-knockout-w4', 'eoi-knockout-w8', 'eoi-knockout-w10']
    """
    listed = [one for section in sections for one in section.conditions(n_layers=n_layers, seed=seed)]
    names = [condition.name for condition in listed]
    for name in names:
        if names.count(name) > 1:
            raise ConditionError(f"condition '{name}' is there twice")
    found = {condition.name: condition for condition in listed}
    return found if NONE in found else {NONE: Condition(), **found}


def crossed(asked: pl.DataFrame, conditions: Iterable[Condition], *, block: int) -> pl.DataFrame:
    """Each sample under each condition: `block` samples under one after the other, then the next.

    So a batch has one condition, and a sample that was prepared is soon wanted again. Under a patch only those that
    receive, with source_sample_id and source_label.
    """
    numbered = asked.with_columns(pl.int_range(pl.len()).alias("own place"))
    tables = [
        (numbered if one.patch is None else _received(numbered, one.patch, one.name)).with_columns(
            condition=pl.lit(one.name)
        )
        for one in conditions
    ]
    whole = pl.concat(tables, how="diagonal")
    return whole.sort(pl.col("own place") // block, maintain_order=True).drop("own place")


def _received(asked: pl.DataFrame, patch: Patch, name: str) -> pl.DataFrame:
    """The samples that receive: the i-th of a class from the i-th of its source's class, asked in the same order."""
    if patch.by not in asked.columns:
        raise ConditionError(
            f"condition '{name}': the samples have no column '{patch.by}'{nearest(patch.by, asked.columns)}"
        )
    for column in ("source_sample_id", "source_label"):
        if column in asked.columns:
            raise ConditionError(
                f"condition '{name}': the samples have a column '{column}', which patches add: rename it"
            )
    known = asked[patch.by].cast(pl.String).drop_nulls().unique().to_list()
    for value in (value for pair in patch.pairs for value in pair):
        if value not in known:
            more = "if these are the first of more, take more of them: --limit N (samples.limit)"
            none = f"condition '{name}': none of {asked.height} samples has {patch.by} '{value}'"
            raise ConditionError(none + nearest(value, known, more))
    numbered = asked.with_columns(
        pl.col(patch.by).cast(pl.String).alias("own label"),
        pl.int_range(pl.len()).over(patch.by, "prompt_order").alias("nth one"),
    )
    pairs = pl.DataFrame(patch.pairs, schema=["source_label", "own label"], orient="row")
    sources = numbered.select("prompt_order", "nth one", source_label="own label", source_sample_id="sample_id")
    found = numbered.join(pairs, on="own label", maintain_order="left")
    found = found.join(sources, on=["source_label", "prompt_order", "nth one"], maintain_order="left")
    return found.drop("own label", "nth one")
