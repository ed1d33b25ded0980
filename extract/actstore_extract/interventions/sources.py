"""Sources: samples that are run as they are, so that their vectors can be patched into others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from actstore_extract.families import Batch, Encoded, Model
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.forward.points import reading, writing
from actstore_extract.interventions.conditions import Condition, Patch
from actstore_extract.roles import Point, Positions, Role, parse_role, positions

__all__ = ["Source", "Sources", "slots"]

_ROOM = 2 * 2**30  # bytes of sources on the host; beyond it the oldest are run again when they are wanted
Key = tuple[str, Point, int]  # role, point, layer


@dataclass(frozen=True)
class Source:
    """What is known of a source: its vectors (n, d) by role, point and layer, and what it says next (vocabulary,)."""

    vectors: dict[Key, torch.Tensor]
    distribution: torch.Tensor

    @property
    def bytes(self) -> int:
        """What it takes on the host."""
        return sum(x.nbytes for x in (*self.vectors.values(), self.distribution))


class Sources:
    """Runs each source once, for all patches of a recipe, as long as there is room to keep it."""

    def __init__(
        self, model: Model, encode: Callable[[str], Encoded | str], patches: Iterable[Patch], *, seed: int
    ) -> None:
        self.model, self.encode, self.seed = model, encode, seed
        self.wanted = sorted({(one.role, one.point, layer) for one in patches for layer in one.layers})
        self.roles = {name: parse_role(name) for name, _, _ in self.wanted}
        self.kept: dict[str, Source] = {}
        self.bytes = 0

    def of(self, encoded: Sequence[Encoded], condition: Condition, batch_size: int) -> list[Source | str]:
        """The source of each sample that receives under the condition, or why it has none."""
        assert condition.patch is not None
        names = [condition.sources[sample.sample_id] for sample in encoded]
        found = self._found(names, batch_size)
        role = self.roles[condition.patch.role]
        key = (role.name, condition.patch.point, condition.patch.layers[0])
        return [
            self._fitting(found[name], name, key, self._at(role, sample))
            for name, sample in zip(names, encoded, strict=True)
        ]

    def _fitting(self, source: Source | str, name: str, key: Key, at: Positions) -> Source | str:
        """The source, or why it cannot be patched into positions `at`."""
        if isinstance(source, str):
            return f"its source {name}: {source}"
        n = len(source.vectors[key])
        if n != len(at) or not n:
            return f"{len(at)} tokens are {key[0]} here, {n} in its source {name}"
        return source

    def _at(self, role: Role, sample: Encoded) -> Positions:
        at = positions(role, sample.layout, seed=self.seed, sample_id=sample.sample_id)
        return np.empty(0, np.int64) if at is None else at

    def _found(self, names: Sequence[str], batch_size: int) -> dict[str, Source | str]:
        """The sources of these names, those run that are not kept."""
        missing = [name for name in dict.fromkeys(names) if name not in self.kept]
        outcomes = {name: self.encode(name) for name in missing}
        encoded = [one for one in outcomes.values() if isinstance(one, Encoded)]
        for batch in self.model.batches(encoded, batch_size):
            self._keep(self._run([encoded[i] for i in batch]))
        refused = {name: one for name, one in outcomes.items() if isinstance(one, str)}
        found = {name: refused[name] if name in refused else self.kept[name] for name in names}
        self._forget()
        return found

    def _run(self, encoded: Sequence[Encoded]) -> dict[str, Source]:
        """One batch of sources, by their ids."""
        batch = self.model.collate(encoded)
        at = {name: [self._at(role, sample) for sample in encoded] for name, role in self.roles.items()}
        with ExitStack() as hooks:
            seen = {
                name: hooks.enter_context(
                    reading(
                        self.model, batch, slots(batch, at[name]), [key[1:] for key in self.wanted if key[0] == name]
                    )
                )
                for name in self.roles
            }
            nothing = [Selection(np.empty(0, np.int64))] * len(encoded)
            logits = capture(self.model, batch, nothing, layers=(), next_token=True).next_logits
        assert logits is not None
        vectors = {
            key: torch.split(seen[key[0]][key[1:]].cpu(), [len(one) for one in at[key[0]]]) for key in self.wanted
        }
        return {
            sample.sample_id: Source({key: parts[i] for key, parts in vectors.items()}, logits[i].softmax(-1))
            for i, sample in enumerate(encoded)
        }

    @contextmanager
    def patched(self, batch: Batch, patch: Patch, sources: Sequence[Source]) -> Iterator[None]:
        """Forwards of the batch run with the vectors of each sample's source."""
        role = self.roles[patch.role]
        at = [
            positions(role, layout, seed=self.seed, sample_id=name)
            for name, layout in zip(batch.sample_ids, batch.layouts, strict=True)
        ]
        vectors = {
            (patch.point, layer): torch.cat([source.vectors[patch.role, patch.point, layer] for source in sources])
            for layer in patch.layers
        }
        with writing(self.model, batch, slots(batch, [one for one in at if one is not None]), vectors):
            yield

    def _keep(self, found: dict[str, Source]) -> None:
        self.kept |= found
        self.bytes += sum(source.bytes for source in found.values())

    def _forget(self) -> None:
        while self.bytes > _ROOM:
            self.bytes -= self.kept.pop(next(iter(self.kept))).bytes


def slots(batch: Batch, at: Sequence[Positions]) -> torch.Tensor:
    """Rows (n,) of the flattened batch at each sample's positions, sample by sample."""
    rows = [batch.rows(i, one) for i, one in enumerate(at)]
    return torch.from_numpy(np.concatenate([*rows, np.empty(0, np.int64)]).astype(np.int64))
