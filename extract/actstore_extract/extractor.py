"""The extractor: a model runs over some samples; out comes the content of a part."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore_extract.attention import AttentionSelection, CapturedAttention
from actstore_extract.capture import Captured, NotFiniteError, Selection, capture
from actstore_extract.conditions import Condition, expand
from actstore_extract.content import Answer, Array, Content, Taken, content
from actstore_extract.families import Batch, Encoded, Model, Prompt, SampleError
from actstore_extract.generation import generate
from actstore_extract.interventions import Block, block_attention, check_blocks, parse_block, role_slots
from actstore_extract.positions import Positions, Role, parse_role, positions
from actstore_extract.recipe import Recipe, RecipeError
from actstore_extract.sources import Source, Sources
from actstore_extract.threads import fitting_threads

__all__ = ["BATCHES_ENCODED", "Extractor"]

BATCHES_ENCODED = 8  # so many batches are sorted by length at a time; more would hold more images in memory
TOP = 10  # next tokens that are kept


class Extractor:
    """Runs a model over samples and keeps what the recipe says; says once what it had to change on the way.

    `asked` are the samples that patches are taken from, with prompt and image.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        image: Callable[[str], Image],
        *,
        layers: Sequence[int],
        dtype: str,
        batch_size: int,
        asked: pl.DataFrame | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.recipe, self.image = model, recipe, image
        self.layers, self.dtype, self.batch_size = layers, dtype, batch_size
        self.roles = [parse_role(role) for role in recipe.capture.roles]
        self.attention = _attention(recipe)
        self.say = say
        self.conditions = expand(recipe.conditions, n_layers=model.n_layers, seed=recipe.seed)
        self.blocks = {name: self._blocks(condition) for name, condition in self.conditions.items()}
        self.encoded: dict[str, Encoded | str] = {}
        self.room = 2 * BATCHES_ENCODED * batch_size if len(self.conditions) > 1 else 1
        self.asked = {} if asked is None else {row["sample_id"]: row for row in asked.iter_rows(named=True)}
        patches = [one.patch for one in self.conditions.values() if one.patch is not None]
        self.sources = Sources(model, self._encode_asked, patches, seed=recipe.seed)
        self.warned: set[str] = set()
        self.answers = self._tokens(recipe.capture.answers)

    def content(self, planned: pl.DataFrame, advance: Callable[[int], None] = lambda _: None) -> Content:
        """The content of a part with these samples of the plan; a sample that cannot be run becomes a failed one."""
        found: list[Taken | str] = []
        with fitting_threads(self.model):
            for same in planned.with_columns(run=pl.col("condition").rle_id()).partition_by("run", maintain_order=True):
                condition = self._condition(same)
                for piece in same.iter_slices(BATCHES_ENCODED * self.batch_size):
                    found += self._taken(piece, condition, advance)
        return content(planned, found)

    def _condition(self, planned: pl.DataFrame) -> Condition:
        """The condition that samples of the plan share, with their sources where it patches."""
        condition = self.conditions[planned["condition"][0]]
        if condition.patch is None:
            return condition
        return replace(condition, sources=dict(planned.select("sample_id", "source_sample_id").iter_rows()))

    def _blocks(self, condition: Condition) -> list[Block]:
        """The attention that the condition blocks; raises InterventionError where this model cannot have that."""
        blocks = [parse_block(block, n_layers=self.model.n_layers) for block in condition.blocked]
        check_blocks(self.model, blocks)
        return blocks

    def _taken(self, planned: pl.DataFrame, condition: Condition, advance: Callable[[int], None]) -> list[Taken | str]:
        """What was kept of each sample under one condition, or why nothing was."""
        found: list[Taken | str] = []
        encoded: list[tuple[int, Encoded]] = []
        for i, row in enumerate(planned.iter_rows(named=True)):
            outcome = self._encode(row["sample_id"], row["prompt"], row["image"])
            found.append(outcome if isinstance(outcome, str) else "not run")
            encoded += [] if isinstance(outcome, str) else [(i, outcome)]
        advance(planned.height - len(encoded))
        for batch in self.model.batches([sample for _, sample in encoded], self.batch_size):
            for j, taken in zip(batch, self._run([encoded[j][1] for j in batch], condition), strict=True):
                found[encoded[j][0]] = taken
            advance(len(batch))
        return found

    def _encode(self, sample_id: str, text: str, image: str | None) -> Encoded | str:
        """The sample as the model takes it, or why it cannot be run; kept for a while: other conditions want it too."""
        if sample_id not in self.encoded:
            while len(self.encoded) >= self.room:
                del self.encoded[next(iter(self.encoded))]
            self.encoded[sample_id] = self._prepared(sample_id, text, image)
        return self.encoded[sample_id]

    def _prepared(self, sample_id: str, text: str, image: str | None) -> Encoded | str:
        try:
            return self.model.encode(Prompt(sample_id, text, None if image is None else self.image(image)))
        except SampleError as error:
            return error.reason
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises for a file it cannot decode
            return f"image {image}: {' '.join(str(error).split())}"

    def _encode_asked(self, sample_id: str) -> Encoded | str:
        """A sample that some other's patch is taken from."""
        row = self.asked.get(sample_id)
        return self._encode(sample_id, row["prompt"], row["image"]) if row else "it is not among the samples"

    def _run(self, encoded: Sequence[Encoded], condition: Condition) -> list[Taken | str]:
        """One batch; samples that are not finite fail alone, a batch too large for the memory is halved."""
        if not encoded:
            return []
        at = [self._positions(sample) for sample in encoded]
        try:
            found = self.sources.of(encoded, condition, self.batch_size) if condition.patch else []
            sources = [source for source in found if isinstance(source, Source)]
            if len(sources) < len(found):
                return self._without(encoded, condition, found)
            batch = self.model.collate(encoded)
            with self._under(condition, batch, sources):
                captured = capture(
                    self.model,
                    batch,
                    [_selection(each) for each in at],
                    layers=self.layers,
                    next_token=self.recipe.capture.next_token,
                    attention=self.attention,
                )
            texts = self._texts(encoded, condition, sources)
        except NotFiniteError as error:
            bad = [str(error) if sample.sample_id in error.sample_ids else None for sample in encoded]
            return self._without(encoded, condition, bad)
        except torch.OutOfMemoryError as error:
            return self._halved(encoded, condition, error)
        return self._split(batch, at, captured, texts, sources)

    @contextmanager
    def _under(self, condition: Condition, batch: Batch, sources: Sequence[Source]) -> Iterator[None]:
        """Forwards of the batch run under the condition."""
        blocks = self.blocks[condition.name]
        for block in blocks:
            if not role_slots(batch, block.keys, condition.seed).any():
                names = " or ".join(role.name for role in block.keys)
                self._warn(f"there is no {names} here: conditions that keep attention from it change nothing")
        with block_attention(self.model, batch, blocks, seed=condition.seed):
            if condition.patch is None:
                yield
                return
            with self.sources.patched(batch, condition.patch, sources):
                yield

    def _warn(self, text: str) -> None:
        """Say it once."""
        if text not in self.warned:
            self.warned.add(text)
            self.say(text)

    def _without(self, encoded: Sequence[Encoded], condition: Condition, bad: Sequence[object]) -> list[Taken | str]:
        """The batch without the samples for which `bad` says a reason."""
        fine = [sample for sample, reason in zip(encoded, bad, strict=True) if not isinstance(reason, str)]
        rest = iter(self._run(fine, condition))
        return [reason if isinstance(reason, str) else next(rest) for reason in bad]

    def _halved(
        self, encoded: Sequence[Encoded], condition: Condition, error: torch.OutOfMemoryError
    ) -> list[Taken | str]:
        if len(encoded) == 1:
            raise ActstoreError(
                f"{encoded[0].sample_id}: not enough memory for one sample of {encoded[0].length} tokens; "
                "take a larger device, device_map = 'auto' in [model], or smaller images"
            ) from error
        self.batch_size = min(self.batch_size, len(encoded) // 2)
        self.say(f"not enough memory for {len(encoded)} samples at once; going on with {self.batch_size}")
        torch.cuda.empty_cache()
        half = len(encoded) // 2
        return self._run(encoded[:half], condition) + self._run(encoded[half:], condition)

    def _positions(self, sample: Encoded) -> dict[Role, Positions]:
        """The roles this sample has, with their positions."""
        seed = self.recipe.seed
        found = {role: positions(role, sample.layout, seed=seed, sample_id=sample.sample_id) for role in self.roles}
        return {role: at for role, at in found.items() if at is not None}

    def _texts(self, encoded: Sequence[Encoded], condition: Condition, sources: Sequence[Source]) -> list[str | None]:
        """What the model generates after each sample, if that is wanted."""
        wanted = self.recipe.capture.max_new_tokens
        if not wanted:
            return [None] * len(encoded)
        batch = self.model.collate(encoded, left=True)
        with self._under(condition, batch, sources):
            return [text.strip() for text in generate(self.model, batch, max_new_tokens=wanted)]

    def _split(
        self,
        batch: Batch,
        at: Sequence[dict[Role, Positions]],
        captured: Captured,
        texts: Sequence[str | None],
        sources: Sequence[Source],
    ) -> list[Taken | str]:
        """The captured batch, sample by sample and role by role."""
        residual, means = self._stored(captured.residual), captured.means.numpy()
        said = self._said(captured.next_logits, texts, sources)
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

    def _said(
        self, logits: torch.Tensor | None, texts: Sequence[str | None], sources: Sequence[Source]
    ) -> list[Answer]:
        """What the model says next after each sample of the batch."""
        if logits is None:
            return [Answer([], [], [], text=text) for text in texts]
        distribution = logits.softmax(-1)
        top = distribution.topk(min(TOP, distribution.shape[-1]))
        answers = distribution[:, self.answers].tolist() if self.answers else [None] * len(texts)
        alike = _alike(distribution, sources) if sources else [None] * len(texts)
        words = [[str(self.model.tokenizer.decode([token])) for token in ids] for ids in top.indices.tolist()]
        columns = (top.indices.tolist(), words, top.values.tolist(), answers, texts, alike)
        return [Answer(*said) for said in zip(*columns, strict=True)]

    def _tokens(self, answers: list[str] | dict[str, str]) -> list[int]:
        words = list(answers.values()) if isinstance(answers, dict) else answers
        tokens = [self._token(word) for word in words]
        for i, token in enumerate(tokens):
            if token in tokens[:i]:
                first = words[tokens.index(token)]
                self._warn(
                    f"answers {first!r} and {words[i]!r} begin with the same token, so they cannot be told apart"
                )
        return tokens

    def _token(self, word: str) -> int:
        """The token that stands for an answer: the first of those the tokenizer makes of it."""
        tokens: list[int] = self.model.tokenizer(word, add_special_tokens=False).input_ids
        if not tokens or tokens[0] == self.model.tokenizer.unk_token_id:
            raise RecipeError(f"[capture] answers: {word!r} is no word of this model's tokenizer")
        if len(tokens) > 1:
            self._warn(f"answer {word!r} is {len(tokens)} tokens; the first stands for it")
        return tokens[0]


def _alike(distribution: torch.Tensor, sources: Sequence[Source]) -> list[float]:
    """What each next-token distribution (samples, vocabulary) shares with its source's: the smaller, summed."""
    own = torch.stack([source.distribution for source in sources])
    shared: list[float] = torch.minimum(distribution, own).sum(-1, dtype=torch.float64).tolist()
    return shared


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
