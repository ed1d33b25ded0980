"""Sums: measures of what adds up, cut into pieces that anybody may take; they are added in the pieces' order."""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import UndefinedError
from actstore.store import Store
from actstore_analyze.study.held import NothingHeldError
from actstore_analyze.study.study import PerLayer

__all__ = ["Missing", "S", "States", "Summed", "add", "each", "there", "total", "totals"]

Packed = dict[str, NDArray[Any]]


class Arrays(Protocol):
    """What is made of a piece: a dataclass of arrays."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


class State(Arrays, Protocol):
    """Of a piece what a unit's sum is made of."""

    def __add__(self, other: Self, /) -> Self: ...


A = TypeVar("A", bound=Arrays)
S = TypeVar("S", bound=State)
Missing = NothingHeldError | UndefinedError
REASONS: dict[type[Missing], str] = {NothingHeldError: "-held", UndefinedError: "-undefined"}  # no names of members
States = dict[int, A | Missing]


@dataclass(frozen=True, kw_only=True)
class Summed(PerLayer):
    """A study of what adds up: pieces of the store are read once for all units that have a share in them.

    Pieces follow from the store and the question alone, and their states are added in their order, whoever computes
    them: the table is the same bit for bit. It differs in last digits where the same rows lie in other parts.
    """

    state_of: ClassVar[type[Any]]  # the class of states

    @abstractmethod
    def pieces(self, store: Store, units: Sequence[Any]) -> list[Any]:
        """What is read at a time, in the order of the sum; small, since pieces go to other processes."""

    @abstractmethod
    def states(self, store: Store, piece: Any) -> dict[int, Any]:
        """Of a piece the state of each unit that has a share in it, by its number; or what is missing."""

    @abstractmethod
    def row(self, store: Store, unit: Any, total: Any) -> pl.DataFrame:
        """The rows of one unit, from the sum of its states."""

    def rows(self, store: Store, unit: Any) -> pl.DataFrame:
        """The rows of one unit."""
        (found,) = self.measured(store, [unit])
        if isinstance(found, str):
            raise NothingHeldError(found)
        return found

    def measured(self, store: Store, units: Sequence[Any]) -> list[pl.DataFrame | str]:
        """The rows of each unit, or why it holds nothing."""
        found = self.summed(store, units)
        each = ((unit, found[number]) for number, unit in enumerate(units))
        return [str(one) if isinstance(one, NothingHeldError) else self.row(store, unit, one) for unit, one in each]

    def summed(self, store: Store, units: Sequence[Any]) -> dict[int, Any]:
        """What `row` takes of each unit, by its number, or what is missing of it: here the sum of its states."""
        return totals(self, store, self.states, self.pieces(store, units), self.state_of)


def totals(
    study: PerLayer, store: Store, states: Callable[[Store, Any], States[S]], pieces: Sequence[Any], state_of: type[S]
) -> States[S]:
    """The sums of the states of all pieces, added in their order, by those who do the work; by number of the unit."""
    with closing(each(study, store, states, pieces, state_of)) as found:
        return total(found)


def each(
    study: PerLayer, store: Store, states: Callable[[Store, Any], States[A]], pieces: Sequence[Any], state_of: type[A]
) -> Generator[States[A], None, None]:
    """The states of each piece, in their order, as soon as these and all before are there; to be closed."""
    with closing(study.streamed(store, partial(_packed, states), pieces)) as streamed:
        for packed in streamed:
            yield _unpacked(packed, state_of)


def total(states: Iterable[States[S]]) -> States[S]:
    """The sums of states, added in their order, by number of the unit."""
    found: States[S] = {}
    for each in states:
        for number, own in each.items():
            add(found, number, own)
    return found


def add(states: States[S], number: int, own: S | Missing) -> None:
    """Have a state in the sum of its unit's; what is missing of one is missing of the sum."""
    before = states.get(number)
    if before is None:
        states[number] = own
    elif not isinstance(before, Missing):
        states[number] = own if isinstance(own, Missing) else before + own


def there(own: A | Missing) -> A:
    """The state; raises what is missing."""
    if isinstance(own, Missing):
        raise own
    return own


def _packed(states: Callable[[Store, Any], States[A]], store: Store, piece: Any) -> Packed:
    """The states of a piece as arrays by name, which other processes and the disk take."""
    found: Packed = {}
    for number, own in states(store, piece).items():
        if isinstance(own, Missing):
            found[f"{number}.{REASONS[type(own)]}"] = np.array(str(own))
        else:
            found |= {f"{number}.{one.name}": np.asarray(getattr(own, one.name)) for one in fields(own)}
    return found


def _unpacked(packed: Mapping[str, NDArray[Any]], state_of: type[A]) -> States[A]:
    members: dict[int, dict[str, NDArray[Any]]] = {}
    for key, value in packed.items():
        number, _, name = key.partition(".")
        members.setdefault(int(number), {})[name] = value
    return {number: _state(own, state_of) for number, own in members.items()}


def _state(members: dict[str, NDArray[Any]], state_of: type[A]) -> A | Missing:
    for kind, name in REASONS.items():
        if name in members:
            return kind(str(members[name]))
    return state_of(**members)
