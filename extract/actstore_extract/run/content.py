"""Content: what a part will hold, put together from what was kept of each sample."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.format.names import FORMAT, PART_SAMPLES, PICTURED, SHARD_BYTES
from actstore.format.schema import rows_of, samples_of
from actstore_extract.roles import ImageSpan, Layout, Positions, Role

__all__ = ["Answer", "Content", "Taken", "content", "samples_per_part"]

PARTS = 4_000  # of a large run
PART_BYTES = 2**29  # before compression; three wait in memory to be written

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Answer:
    """What the model says next: the most probable tokens with their probabilities, those of the recipe's answers, the
    text it generates, and under a patch how much of it is what the source says."""

    token_ids: list[int]
    tokens: list[str]
    probabilities: list[float]
    answers: list[float] | None = None
    text: str | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Taken:
    """What was kept of one sample: its layout; positions by role, with vectors (layers, n, d), keys and values (blocks,
    n, key heads * head width); attention of its text to each key role (layers, heads or 1, queries) and the mass
    (layers, keys); what the model says next."""

    layout: Layout
    at: dict[Role, Positions]
    vectors: dict[str, Array]
    keys: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    attention: dict[str, Array] = field(default_factory=dict)
    answer: Answer | None = None


@dataclass(frozen=True)
class Content:
    """Samples and rows as `Store.write` takes them, vectors (layers, n, d), keys and values (blocks, n, width) by role,
    and attention by key role."""

    samples: pl.DataFrame
    rows: pl.DataFrame
    residual: dict[str, Array]
    keys: dict[str, Array]
    values: dict[str, Array]
    attention: dict[str, Array]

    @property
    def bytes(self) -> int:
        """Bytes of the arrays."""
        kept = (self.residual, self.keys, self.values, self.attention)
        return sum(array.nbytes for arrays in kept for array in arrays.values())

    @property
    def done(self) -> int:
        """Samples that did not fail."""
        return self.samples.filter(pl.col("status") == "ok").height


def content(planned: pl.DataFrame, found: Sequence[Taken | str]) -> Content:
    """The content of a part: samples of the plan, and of each what was kept, or why nothing was.

    Where the plan has lists of pictures, rows and samples say which picture is where.
    """
    form = PICTURED if planned.schema.get("image") == pl.List(pl.String) else FORMAT
    keys = list(planned.select("sample_id", "condition").iter_rows())
    pairs = list(zip(keys, found, strict=True))
    samples = [{"sample_id": key[0], "condition": key[1], **_sample(one)} for key, one in pairs]
    rows = [
        {"sample_id": key[0], "condition": key[1], "role": role.name, **row}
        for key, one in pairs
        if isinstance(one, Taken)
        for role, at in one.at.items()
        for row in _rows(one.layout, role, at)
    ]
    taken = [one for one in found if isinstance(one, Taken)]
    return Content(
        samples=pl.DataFrame(samples, schema=samples_of(form)),
        rows=pl.DataFrame(rows, schema=rows_of(form)),
        residual=_joined([one.vectors for one in taken]),
        keys=_joined([one.keys for one in taken]),
        values=_joined([one.values for one in taken]),
        attention=_attention(found),
    )


def _sample(taken: Taken | str) -> dict[str, object]:
    """A row of samples, but for its key."""
    if isinstance(taken, str):
        return {"status": "failed", "error": taken}
    layout = taken.layout
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
        "pictures": [_picture(span) for span in layout.spans] or None,
        **(_said(taken.answer) if taken.answer else {}),
    }


def _picture(span: ImageSpan) -> dict[str, int | None]:
    """Where one picture of a sample is."""
    rows, columns = span.grid or (None, None)
    return {
        "image_start": int(span.image[0]) if len(span.image) else None,
        "image_end": int(span.image[-1]) if len(span.image) else None,
        "grid_rows": rows,
        "grid_columns": columns,
        "boi": span.boi,
        "eoi": span.eoi,
    }


def _said(answer: Answer) -> dict[str, object]:
    first = next(zip(answer.token_ids, answer.tokens, answer.probabilities, strict=True), (None, None, None))
    return {
        "next_token_id": first[0],
        "next_token": first[1],
        "next_token_probability": first[2],
        "top_tokens": answer.tokens or None,
        "top_probabilities": answer.probabilities or None,
        "answer_probabilities": answer.answers,
        "source_similarity": answer.similarity,
        "generated_text": answer.text,
    }


def _rows(layout: Layout, role: Role, at: Positions) -> list[dict[str, object]]:
    """Rows of one role of one sample, but for their key; a mean is one row without position, of each picture one."""
    if role.is_mean:
        return [_mean(layout, own) for own in layout.by_picture(at)]
    columns = (layout.token_ids[at].tolist(), layout.modality(at).tolist(), layout.picture(at).tolist())
    return [
        {"position": position, "token_id": token_id, "modality": kind, "picture": number or None}
        for position, token_id, kind, number in zip(at.tolist(), *columns, strict=True)
    ]


def _mean(layout: Layout, at: Positions) -> dict[str, object]:
    """The row of a mean over positions, which are of one picture or of none."""
    modality, numbers = layout.modality(at).tolist(), np.unique(layout.picture(at))
    number = int(numbers[0]) if len(numbers) == 1 else 0
    return {"modality": Counter(modality).most_common(1)[0][0], "picture": number or None}


def _joined(kept: Sequence[dict[str, Array]]) -> dict[str, Array]:
    """Vectors (layers or blocks, n, width) by role, of all samples."""
    names = dict.fromkeys(name for one in kept for name in one)
    pieces = {name: [one[name] for one in kept if name in one] for name in names}
    return {name: np.concatenate(vectors, axis=1) for name, vectors in pieces.items()}


def _attention(found: Sequence[Taken | str]) -> dict[str, Array]:
    """Columns (layers, samples, heads or 1, queries) and mass (layers, samples, keys), NaN where a sample has none."""
    kept = [one.attention if isinstance(one, Taken) else {} for one in found]
    joined: dict[str, Array] = {}
    for name in dict.fromkeys(name for one in kept for name in one):
        pieces = {i: one[name] for i, one in enumerate(kept) if name in one}
        layers, *heads = next(iter(pieces.values())).shape[:-1]
        widest = max(piece.shape[-1] for piece in pieces.values())
        if widest:
            joined[name] = np.full((layers, len(found), *heads, widest), np.nan, np.float32)
            for i, piece in pieces.items():
                joined[name][:, i, ..., : piece.shape[-1]] = piece
    return joined


def samples_per_part(content: Content, batch_size: int, n_samples: int) -> int:
    """How many of `n_samples` make a part of about 128 MB: whole batches, at least one, at most 2,048 samples.

    Of a large run they are more, up to 512 MB, so that it has some 4,000 parts: each leaves a record for ever.
    """
    each = max(1, content.bytes // content.done)
    of_large = min(-(-n_samples // PARTS), PART_BYTES // each)
    whole = min(max(SHARD_BYTES // each, of_large), PART_SAMPLES) // batch_size * batch_size
    return max(batch_size, whole)
