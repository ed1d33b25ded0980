"""Patched replays of a store's samples, each beside the un-patched one, which is checked against what was stored."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from actstore.store import Store
from actstore_extract.replay.check import Check
from actstore_extract.replay.decoder import Decoder
from actstore_extract.replay.donors import Donor
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.pairing import Pairing
from actstore_extract.replay.reader import together
from actstore_extract.replay.replay import Replay
from actstore_extract.replay.sample import Branch, Job, Put, Vectors
from actstore_extract.roles import Point

__all__ = ["METHODS", "Outcome", "Patched", "able", "kept", "lacking", "method"]

METHODS = ("packed", "suffix", "full")  # the cheapest first


@dataclass(frozen=True)
class Outcome:
    """Next-token logits of one receiver with one donor's vectors: `patched` (layers, vocabulary).

    `before` (vocabulary,) are those without them, `own` those of the donor itself, None for one that is no sample;
    `classes` are the donor's and the receiver's.
    """

    receiver: str
    donor: Donor
    classes: tuple[str | None, str | None]
    patched: Vectors
    before: Vectors
    own: Vectors | None


class Patched:
    """What is put at `role` of a store's samples, layer by layer, replayed in the cheapest way, or the one named.

    `check` compares the un-patched ones with what was stored.
    """

    def __init__(
        self,
        pairing: Pairing,
        decoder: Decoder,
        *,
        role: str,
        layers: Sequence[int],
        point: Point = "residual",
        factor: float | None = None,
        way: str = METHODS[0],
        tolerance: float | None = None,
    ) -> None:
        self.store, self.pairing, self.decoder = pairing.reader.store, pairing, decoder
        self.role, self.layers, self.point, self.factor, self.way = role, layers, point, factor, way
        self.replay = Replay(decoder, seed=int(self.store.run.get("seed") or 0))
        self.check = Check(self.store, decoder, tolerance)

    @property
    def steps(self) -> int:
        """How often `advance` is told that something is done."""
        groups = len(self._groups(self.pairing.sources)) + len(self._groups(self.receivers))
        if self.way == "packed":
            return groups * (self.decoder.n_layers + 1 - min(self.layers))
        return len(self.pairing.sources) + len(self.receivers)

    @property
    def receivers(self) -> list[str]:
        """Samples that something is put into."""
        return list(self.pairing.donors)

    def on(self, pairing: Pairing) -> "Patched":
        """The same of other receivers."""
        return Patched(
            pairing, self.decoder, role=self.role, layers=self.layers, point=self.point, factor=self.factor,
            way=self.way, tolerance=self.check.tolerance,
        )  # fmt: skip

    def outcomes(self, advance: Callable[[int], None] = lambda _: None) -> Iterator[Outcome]:
        """Every receiver with every donor of it; ReplayError where an un-patched replay is not what was stored."""
        own: dict[str, Vectors] = {}
        for names in self._groups(self.pairing.sources):
            said = self._run(names, [self._job(name, ()) for name in names], advance)
            own |= {name: logits[0] for name, logits in zip(names, said, strict=True)}
        for names in self._groups(self.receivers):
            jobs = [self._job(name, self.pairing.donors[name]) for name in names]
            for name, logits in zip(names, self._run(names, jobs, advance), strict=True):
                before, given = logits[0], self.pairing.donors[name]
                patched = logits[1:].reshape(len(given), len(self.layers), -1)
                for donor, after in zip(given, patched, strict=True):
                    classes = donor.label, self.pairing.labels.get(name)
                    its = None if donor.sample_id is None else own[donor.sample_id]
                    yield Outcome(name, donor, classes, after, before, its)

    def _job(self, name: str, given: Sequence[Donor]) -> Job:
        """The un-patched run, and those with each donor's vectors at each layer."""
        sample = self.pairing.samples[name]
        at = sample.at(self.role)
        past, is_cached = sample.past(at, self.layers, self.decoder.n_layers) or (0, False)
        puts = [Put(at, donor.vectors, self.point, self.factor) for donor in given]
        branches = [Branch(min(self.layers)), *(Branch(layer, put) for put in puts for layer in self.layers)]
        return Job(sample.kept(is_cached=is_cached), tuple(branches), past)

    def _groups(self, names: Sequence[str]) -> list[Sequence[str]]:
        size = together(list(self.pairing.samples.values()))
        return [names[i : i + size] for i in range(0, len(names), size)]

    def _run(self, names: Sequence[str], jobs: Sequence[Job], advance: Callable[[int], None]) -> list[Vectors]:
        """Logits (branches, vocabulary) of the job of each sample; its first branch, the un-patched one, is checked."""
        samples = [self.pairing.samples[name] for name in names]
        given = [donor.row_ids for name in names for donor in self.pairing.donors.get(name, ())]
        own = [sample.needed(job.past, is_cached=job.sample.cached is not None)
               for sample, job in zip(samples, jobs, strict=True)]  # fmt: skip
        self.pairing.reader.expect(np.concatenate([*own, *given]))
        outputs = self.replay.outputs(jobs, advance) if self.way == "packed" else self._apart(jobs, advance)
        logits = [self.replay.logits(last) for last in outputs]
        first = [np.stack([one[0] for one in each]) for each in (logits, outputs)]
        self.check(samples, *first, layer=min(self.layers))
        return logits

    def _apart(self, jobs: Sequence[Job], advance: Callable[[int], None]) -> list[Vectors]:
        """The last vectors (branches, d) of each job, one branch after the other."""
        found = []
        for job in jobs:
            found.append(np.stack([self._alone(job, branch) for branch in job.branches]))
            advance(1)
        return found

    def _alone(self, job: Job, branch: Branch) -> Vectors:
        if self.way == "full":
            return self.replay.full_output(job.sample, branch)
        only: Vectors = self.replay.outputs([Job(job.sample, (branch,), job.past)])[0][0]
        return only


def method(pairing: Pairing, role: str, layers: Sequence[int], wanted: str | None = None) -> str:
    """The cheapest way that what is stored of all samples allows, or the one wanted; ReplayError says what to keep."""
    chosen = wanted or next((way for way in METHODS if able(way, pairing, role, layers)), METHODS[0])
    if able(chosen, pairing, role, layers):
        return chosen
    store = pairing.reader.store
    raise ReplayError(f"{store} keeps {kept(store)}; {lacking(role, chosen)}")


def able(way: str, pairing: Pairing, role: str, layers: Sequence[int]) -> bool:
    """Whether what is stored of all samples allows it."""
    n_layers = int(pairing.reader.store.run["n_layers"])
    if way == "full":
        return all(one.is_whole for one in pairing.samples.values())
    return all(one.past(one.at(role), layers, n_layers) is not None for one in pairing.samples.values())


def kept(store: Store) -> str:
    """What replays could use of a store, in words."""
    layers, points = len(store.layers), int(store.run["n_layers"]) + 1
    vectors = f"the residual stream of {', '.join(store.roles)}" if store.roles else "no residual streams"
    vectors += f" at {'all' if layers == points else layers} of {points} layers"
    cached = f", keys and values of {', '.join(store.kv)} in {len(store.blocks)} blocks" if store.kv else ""
    return vectors + cached


def lacking(role: str, way: str) -> str:
    """What to extract again, for patches at a role."""
    if way == "full":
        return 'a full replay needs every position, at the patched layers: extract again with [capture] roles = ["all"]'
    return (
        f"replays of patches at {role} need every position of a sample, at all layers: extract again with [capture] "
        'layers = "all" and roles = ["all"], or roles = ["suffix"] and kv = ["prefix"], which is smaller where heads '
        "share keys"
    )
