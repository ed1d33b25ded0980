"""The extractor: a model runs over some samples; out comes the content of a part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.attention import AttentionSelection, CapturedAttention
from actstore_extract.capture import Captured, NotFiniteError, Selection, capture
from actstore_extract.content import Answer, Array, Content, Taken, content
from actstore_extract.families import Batch, Encoded, Model, Prompt, SampleError
from actstore_extract.generation import generate
from actstore_extract.positions import Positions, Role, parse_role, positions
from actstore_extract.recipe import Recipe, RecipeError

__all__ = ["Extractor"]

SMALL = 10_000_000  # parameters
BATCHES_ENCODED = 8  # so many batches are sorted by length at a time; more would hold more images in memory
TOP = 10  # next tokens that are kept


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
        self.attention = _attention(recipe)
        self.say = say
        self.answers = [self._token(word) for word in recipe.capture.answers]

    def content(self, planned: pl.DataFrame, advance: Callable[[int], None] = lambda _: None) -> Content:
        """The content of a part with these samples of the plan; a sample that cannot be run becomes a failed one."""
        found: list[Taken | str] = []
        with _fitting_threads(self.model):
            for piece in planned.iter_slices(BATCHES_ENCODED * self.batch_size):
                found += self._taken(piece, advance)
        return content(planned, found)

    def _taken(self, planned: pl.DataFrame, advance: Callable[[int], None]) -> list[Taken | str]:
        """What was kept of each sample, or why nothing was."""
        found: list[Taken | str] = []
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

    def _run(self, encoded: Sequence[Encoded]) -> list[Taken | str]:
        """One batch; samples that are not finite fail alone, a batch too large for the memory is halved."""
        if not encoded:
            return []
        at = [self._positions(sample) for sample in encoded]
        try:
            batch = self.model.collate(encoded)
            captured = capture(
                self.model,
                batch,
                [_selection(each) for each in at],
                layers=self.layers,
                next_token=self.recipe.capture.next_token,
                attention=self.attention,
            )
            texts = self._texts(encoded)
        except NotFiniteError as error:
            return self._without(encoded, error)
        except torch.OutOfMemoryError as error:
            return self._halved(encoded, error)
        return self._split(batch, at, captured, texts)

    def _without(self, encoded: Sequence[Encoded], error: NotFiniteError) -> list[Taken | str]:
        """The batch without the samples that are not finite."""
        rest = iter(self._run([sample for sample in encoded if sample.sample_id not in error.sample_ids]))
        return [str(error) if sample.sample_id in error.sample_ids else next(rest) for sample in encoded]

    def _halved(self, encoded: Sequence[Encoded], error: torch.OutOfMemoryError) -> list[Taken | str]:
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

    def _texts(self, encoded: Sequence[Encoded]) -> list[str | None]:
        """What the model generates after each sample, if that is wanted."""
        wanted = self.recipe.capture.max_new_tokens
        if not wanted:
            return [None] * len(encoded)
        batch = self.model.collate(encoded, left=True)
        return [text.strip() for text in generate(self.model, batch, max_new_tokens=wanted)]

    def _split(
        self, batch: Batch, at: Sequence[dict[Role, Positions]], captured: Captured, texts: Sequence[str | None]
    ) -> list[Taken | str]:
        """The captured batch, sample by sample and role by role."""
        residual, means = self._stored(captured.residual), captured.means.numpy()
        said = self._said(captured.next_logits, texts)
        found: list[Taken | str] = []
        row = mean = 0
        for i, where in enumerate(at):
            vectors: dict[str, Array] = {}
            for role, places in where.items():
                if role.is_mean:
                    vectors[role.name], mean = means[:, mean : mean + 1], mean + 1
                else:
                    vectors[role.name], row = residual[:, row : row + len(places)], row + len(places)
            layout = batch.layouts[i]
            found.append(Taken(layout, where, vectors, _attention_of(captured.attention, i), said[i]))
        return found

    def _stored(self, residual: torch.Tensor) -> NDArray[np.generic]:
        """Vectors as numpy: bit patterns where the store keeps the model's own bfloat16, else float32."""
        if self.dtype == "bfloat16" and residual.dtype == torch.bfloat16:
            return residual.view(torch.uint16).numpy()
        return residual.float().numpy()

    def _said(self, logits: torch.Tensor | None, texts: Sequence[str | None]) -> list[Answer]:
        """What the model says next after each sample of the batch."""
        if logits is None:
            return [Answer([], [], [], text=text) for text in texts]
        distribution = logits.softmax(-1)
        top = distribution.topk(min(TOP, distribution.shape[-1]))
        answers = distribution[:, self.answers].tolist() if self.answers else [None] * len(texts)
        return [
            Answer(ids, [str(self.model.tokenizer.decode([token])) for token in ids], probabilities, own, text)
            for ids, probabilities, own, text in zip(
                top.indices.tolist(), top.values.tolist(), answers, texts, strict=True
            )
        ]

    def _token(self, word: str) -> int:
        """The token that stands for an answer: the first of those the tokenizer makes of it."""
        tokens: list[int] = self.model.tokenizer(word, add_special_tokens=False).input_ids
        if not tokens or tokens[0] == self.model.tokenizer.unk_token_id:
            raise RecipeError(f"[capture] answers: {word!r} is no word of this model's tokenizer")
        if len(tokens) > 1:
            self.say(f"answer {word!r} is {len(tokens)} tokens; the first stands for it")
        return tokens[0]


def _attention(recipe: Recipe) -> AttentionSelection | None:
    capture = recipe.capture
    if not capture.attention and not capture.mass:
        return None
    keys = tuple(parse_role(name) for name in capture.attention)
    return AttentionSelection(keys=keys, per_head=capture.per_head, mass=capture.mass, seed=recipe.seed)


def _attention_of(captured: CapturedAttention | None, sample: int) -> dict[str, Array]:
    """The attention of one sample: columns (layers, heads or 1, queries) by key role, and the mass (layers, keys)."""
    if captured is None:
        return {}
    found = {name: columns[:, sample].numpy() for name, columns in captured.columns.items()}
    return found if captured.mass is None else found | {"mass": captured.mass[:, sample].numpy()}


def _selection(at: dict[Role, Positions]) -> Selection:
    single = [where for role, where in at.items() if not role.is_mean]
    means = tuple(where for role, where in at.items() if role.is_mean)
    return Selection(np.concatenate([*single, np.empty(0, np.int64)]).astype(np.int64), means)


@contextmanager
def _fitting_threads(model: Model) -> Iterator[None]:
    """One thread for a small model on a CPU: two wait for each other, on a busy machine a hundred times longer.

    A rule on the model alone, since the number of threads can change the last bits of a result.
    """
    before = torch.get_num_threads()
    if model.device.type == "cpu" and sum(weight.numel() for weight in model.module.parameters()) < SMALL:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
