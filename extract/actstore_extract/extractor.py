"""The extractor: a model runs over some samples; out come the tables and vectors of a part."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore.schema import ROWS, SAMPLES
from actstore_extract.capture import Captured, NotFiniteError, Selection, capture
from actstore_extract.families import Encoded, Model, Prompt, SampleError
from actstore_extract.positions import Layout, Positions, Role, parse_role, positions
from actstore_extract.recipe import Recipe

__all__ = ["Content", "Extractor"]

BATCHES_ENCODED = 8  # so many batches are sorted by length at a time; more would hold more images in memory


@dataclass(frozen=True)
class Content:
    """What a part will hold: samples and rows as `Store.write` takes them, and vectors (layers, n, d) by role."""

    samples: pl.DataFrame
    rows: pl.DataFrame
    residual: dict[str, NDArray[np.generic]]

    @property
    def bytes(self) -> int:
        """Bytes of the vectors."""
        return sum(vectors.nbytes for vectors in self.residual.values())


@dataclass(frozen=True)
class _Taken:
    """What was kept of one sample: its layout, positions and vectors (layers, n, d) by role, and the next token."""

    layout: Layout
    at: dict[str, Positions] = field(default_factory=dict)
    vectors: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    next_token: tuple[int, str, float] | None = None


class Extractor:
    """Runs a model over samples and keeps what the recipe says; says once what it had to change on the way."""

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        image: Callable[[str], Image],
        *,
        layers: Sequence[int],
        dtype: str,
        batch_size: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.recipe, self.image = model, recipe, image
        self.layers, self.dtype, self.batch_size = layers, dtype, batch_size
        self.roles = [parse_role(role) for role in recipe.capture.roles]
        self.say = say

    def content(self, planned: pl.DataFrame, advance: Callable[[int], None] = lambda _: None) -> Content:
        """The content of a part with these samples of the plan; a sample that cannot be run becomes a failed one."""
        found: list[_Taken | str] = []
        window = BATCHES_ENCODED * self.batch_size
        for piece in planned.iter_slices(window):
            found += self._taken(piece, advance)
        return Content(self._samples(planned, found), self._rows(planned, found), self._residual(found))

    def _taken(self, planned: pl.DataFrame, advance: Callable[[int], None]) -> list[_Taken | str]:
        """What was kept of each sample, or why nothing was."""
        found: list[_Taken | str] = []
        encoded: list[tuple[int, Encoded]] = []
        for i, row in enumerate(planned.iter_rows(named=True)):
            outcome = self._encode(row["sample_id"], row["prompt"], row["image"])
            found.append(outcome if isinstance(outcome, str) else "not run")
            encoded += [] if isinstance(outcome, str) else [(i, outcome)]
        advance(planned.height - len(encoded))
        for batch in self.model.batches([sample for _, sample in encoded], self.batch_size):
            for j, taken in zip(batch, self._run([encoded[j][1] for j in batch]), strict=True):
                found[encoded[j][0]] = taken
            advance(len(batch))
        return found

    def _encode(self, sample_id: str, text: str, image: str | None) -> Encoded | str:
        """The sample as the model takes it, or why it cannot be run."""
        try:
            return self.model.encode(Prompt(sample_id, text, None if image is None else self.image(image)))
        except SampleError as error:
            return error.reason
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a file it cannot decode
            return f"image {image}: {' '.join(str(error).split())}"

    def _run(self, encoded: Sequence[Encoded]) -> list[_Taken | str]:
        """One forward; samples that are not finite fail alone, a batch too large for the memory is halved."""
        at = [self._positions(sample) for sample in encoded]
        selections = [self._selection(each) for each in at]
        try:
            batch = self.model.collate(encoded)
            captured = capture(
                self.model, batch, selections, layers=self.layers, next_token=self.recipe.capture.next_token
            )
        except NotFiniteError as error:
            bad = {i for i, sample in enumerate(encoded) if sample.sample_id in error.sample_ids}
            rest = iter(
                self._run([sample for i, sample in enumerate(encoded) if i not in bad])
                if len(bad) < len(encoded)
                else []
            )
            return [str(error) if i in bad else next(rest) for i in range(len(encoded))]
        except torch.OutOfMemoryError as error:
            return self._halved(encoded, error)
        return list(self._split(encoded, at, selections, captured))

    def _halved(self, encoded: Sequence[Encoded], error: torch.OutOfMemoryError) -> list[_Taken | str]:
        if len(encoded) == 1:
            raise ActstoreError(
                f"{encoded[0].sample_id}: not enough memory for one sample of {encoded[0].length} tokens; "
                "take a larger device, device_map = 'auto' in [model], or smaller images"
            ) from error
        self.batch_size = min(self.batch_size, len(encoded) // 2)
        self.say(f"not enough memory for {len(encoded)} samples at once; going on with {self.batch_size}")
        torch.cuda.empty_cache()
        half = len(encoded) // 2
        return self._run(encoded[:half]) + self._run(encoded[half:])

    def _positions(self, sample: Encoded) -> dict[Role, Positions]:
        """The roles this sample has, with their positions."""
        seed = self.recipe.seed
        found = {role: positions(role, sample.layout, seed=seed, sample_id=sample.sample_id) for role in self.roles}
        return {role: at for role, at in found.items() if at is not None}

    def _selection(self, at: dict[Role, Positions]) -> Selection:
        single = [where for role, where in at.items() if not role.is_mean]
        means = tuple(where for role, where in at.items() if role.is_mean)
        return Selection(np.concatenate([*single, np.empty(0, np.int64)]).astype(np.int64), means)

    def _split(
        self,
        encoded: Sequence[Encoded],
        at: Sequence[dict[Role, Positions]],
        selections: Sequence[Selection],
        captured: Captured,
    ) -> Iterator[_Taken]:
        """The captured batch, sample by sample and role by role."""
        residual, means = self._stored(captured.residual), captured.means.numpy()
        answers = self._answers(captured.next_logits, len(encoded))
        row = mean = 0
        for sample, where, selection, answer in zip(encoded, at, selections, answers, strict=True):
            vectors: dict[str, NDArray[np.generic]] = {}
            start = row
            for role, places in where.items():
                if role.is_mean:
                    vectors[role.name], mean = means[:, mean : mean + 1], mean + 1
                else:
                    vectors[role.name], row = residual[:, row : row + len(places)], row + len(places)
            assert row - start == len(selection.positions)
            yield _Taken(sample.layout, {role.name: places for role, places in where.items()}, vectors, answer)

    def _stored(self, residual: torch.Tensor) -> NDArray[np.generic]:
        """Vectors as numpy: bit patterns where the store keeps the model's own bfloat16, else float32."""
        if self.dtype == "bfloat16" and residual.dtype == torch.bfloat16:
            return residual.view(torch.uint16).numpy()
        return residual.float().numpy()

    def _answers(self, logits: torch.Tensor | None, count: int) -> list[tuple[int, str, float] | None]:
        """The most probable next token of each sample: id, text, probability."""
        if logits is None:
            return [None] * count
        probability, token = logits.softmax(-1).max(-1)
        texts = [self.model.tokenizer.decode([int(i)]) for i in token]
        return list(zip(token.tolist(), map(str, texts), probability.tolist(), strict=True))

    def _samples(self, planned: pl.DataFrame, found: Sequence[_Taken | str]) -> pl.DataFrame:
        records = [
            {"sample_id": sample_id, "condition": condition, **_sample(taken)}
            for (sample_id, condition), taken in zip(
                planned.select("sample_id", "condition").iter_rows(), found, strict=True
            )
        ]
        return pl.DataFrame(records, schema=SAMPLES)

    def _rows(self, planned: pl.DataFrame, found: Sequence[_Taken | str]) -> pl.DataFrame:
        means = {role.name for role in self.roles if role.is_mean}
        records = [
            {"sample_id": sample_id, "condition": condition, "role": role, **row}
            for (sample_id, condition), taken in zip(
                planned.select("sample_id", "condition").iter_rows(), found, strict=True
            )
            if isinstance(taken, _Taken)
            for role, at in taken.at.items()
            for row in _rows_of(taken.layout, at, mean=role in means)
        ]
        return pl.DataFrame(records, schema=ROWS)

    def _residual(self, found: Sequence[_Taken | str]) -> dict[str, NDArray[np.generic]]:
        taken = [one.vectors for one in found if isinstance(one, _Taken)]
        pieces = {role.name: [one[role.name] for one in taken if role.name in one] for role in self.roles}
        return {name: np.concatenate(vectors, axis=1) for name, vectors in pieces.items() if vectors}


def _sample(taken: _Taken | str) -> dict[str, object]:
    """A row of samples, but for its key."""
    if isinstance(taken, str):
        return {"status": "failed", "error": taken}
    layout = taken.layout
    token, text, probability = taken.next_token or (None, None, None)
    rows, columns = layout.grid or (None, None)
    return {
        "status": "ok",
        "length": layout.length,
        "image_start": int(layout.image[0]) if len(layout.image) else None,
        "image_end": int(layout.image[-1]) if len(layout.image) else None,
        "grid_rows": rows,
        "grid_columns": columns,
        "boi": layout.boi,
        "eoi": layout.eoi,
        "next_token_id": token,
        "next_token": text,
        "next_token_probability": probability,
    }


def _rows_of(layout: Layout, at: Positions, *, mean: bool) -> list[dict[str, object]]:
    """Rows of one role of one sample, but for their key; a mean is one row without position."""
    modality = layout.modality(at).tolist()
    if mean:
        return [{"modality": modality[0]}]
    token = layout.token_ids[at].tolist()
    return [
        {"position": position, "token_id": token_id, "modality": kind}
        for position, token_id, kind in zip(at.tolist(), token, modality, strict=True)
    ]
