"""The extractor: a model runs over some samples; out comes the content of a part."""

import itertools
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from PIL.Image import Image

from actstore.errors import ActstoreError
from actstore.format.names import dtype_named
from actstore_extract.families import Batch, Encoded, Model
from actstore_extract.forward.attention import AttentionSelection, CapturedAttention
from actstore_extract.forward.capture import Begun, Captured, NotFiniteError, Selection, begin
from actstore_extract.forward.generation import GREEDY, Way, generate, together
from actstore_extract.forward.points import check_writable
from actstore_extract.forward.slots import role_slots
from actstore_extract.forward.tap import check_attention
from actstore_extract.forward.threads import fitting_threads
from actstore_extract.interventions.blocks import Block, block_attention, check_blocks, parse_block
from actstore_extract.interventions.conditions import Condition, expand
from actstore_extract.interventions.sources import Source, Sources
from actstore_extract.interventions.steering import check_width, steered
from actstore_extract.recipe.recipe import Recipe
from actstore_extract.recipe.worded import word_columns
from actstore_extract.roles import Layout, Positions, Role, parse_role, positions
from actstore_extract.run.content import Array, Content, Taken, content
from actstore_extract.run.encoder import Encoder, chat_of
from actstore_extract.run.failures import Failure, Failures, failure_of
from actstore_extract.run.said import Said, tokens_of

__all__ = ["BATCHES_ENCODED", "Extractor"]

BATCHES_ENCODED = 8  # so many batches are sorted by length at a time; more would hold more images in memory
LAUNCHED_AHEAD = 1  # batches a GPU is given before what it did last is looked at
IN_A_ROW = 2  # times as many samples, all failing for what nobody expects, do not fail for what they are
NOT_RUN = "not run"

_Wait = Callable[[], list[Taken | str]]  # waits for a batch; what was kept of each sample, or why nothing was


class _Piece(NamedTuple):
    """Samples under one condition that are sorted by length together; `wanted` are those to be run, if not all."""

    planned: pl.DataFrame
    condition: Condition
    wanted: set[str] | None

    @property
    def is_wanted(self) -> bool:
        return self.wanted is None or not self.wanted.isdisjoint(self.planned["sample_id"])


class Extractor:
    """Runs a model over samples and keeps what the recipe says; says once what it had to change on the way.

    `asked` are the samples that patches are taken from, with prompt and image; `answers` the tokens of the recipe's
    answers, unless they are to be found from the prompts; `generation` how texts are generated.
    """

    def __init__(
        self,
        model: Model,
        recipe: Recipe,
        image: Callable[[str], Image],
        *,
        layers: Sequence[int],
        kv_blocks: Sequence[int] = (),
        dtype: str,
        batch_size: int,
        asked: pl.DataFrame | None = None,
        answers: Sequence[int] | None = None,
        generation: Way = GREEDY,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.model, self.recipe = model, recipe
        self.layers, self.kv_blocks, self.dtype, self.batch_size = layers, kv_blocks, dtype, batch_size
        self.roles = [parse_role(role) for role in recipe.capture.roles]
        self.kv = [parse_role(role) for role in recipe.capture.kv]
        self.attention = _attention(recipe)
        self.generation, self.say = generation, say
        self.conditions = expand(recipe.conditions, n_layers=model.n_layers, seed=recipe.seed)
        self.blocks = {name: self._blocks(condition) for name, condition in self.conditions.items()}
        chat = chat_of(recipe.prompt)
        columns = {} if asked is None else word_columns(recipe, asked.columns)
        self.encoder = Encoder(model, image, recipe.prompt, columns, room=2 * BATCHES_ENCODED * batch_size)
        self.asked = {} if asked is None else {row["sample_id"]: row for row in asked.iter_rows(named=True)}
        patches = [one.patch for one in self.conditions.values() if one.patch is not None]
        self.changed = _changed(self.conditions.values()) if model.inject else {}
        self.sources = Sources(model, self._encode_asked, patches, seed=recipe.seed)
        self.failures = Failures(model.device, most=IN_A_ROW * BATCHES_ENCODED * batch_size)
        self.warned: set[str] = set()
        end = "" if chat is None or asked is None else chat.end(model)
        own = tokens_of(model, recipe.capture.answers, asked, end, self._warn) if answers is None else answers
        self.said = Said(model, own)

    def content(
        self,
        planned: pl.DataFrame,
        advance: Callable[[int], None] = lambda _: None,
        *,
        only: Collection[tuple[str, str]] | None = None,
        then: pl.DataFrame | None = None,
    ) -> Content:
        """The content of a part with these samples of the plan; a sample that cannot be run becomes a failed one.

        With `only`, the batches that have one of these (sample, condition) are run, of the same samples as without it.
        `then` are the samples of the next call: the first of them are encoded while the last of these run.
        """
        pieces = list(self._pieces(planned, only))
        coming = [*pieces, *([] if then is None else itertools.islice(self._pieces(then, only), 1))]
        try:
            with fitting_threads(self.model):
                found = self._taken(pieces, coming, advance)
        except BaseException:
            self.encoder.drop()
            raise
        return content(planned, found)

    def _pieces(self, planned: pl.DataFrame, only: Collection[tuple[str, str]] | None) -> Iterator[_Piece]:
        """Samples of one condition each, so many as are sorted by length at a time."""
        for same in planned.with_columns(run=pl.col("condition").rle_id()).partition_by("run", maintain_order=True):
            condition = self._condition(same)
            wanted = only if only is None else {name for name, under in only if under == condition.name}
            for piece in same.iter_slices(BATCHES_ENCODED * self.batch_size):
                yield _Piece(piece, condition, wanted)

    def _condition(self, planned: pl.DataFrame) -> Condition:
        """The condition that samples of the plan share, with their sources where it patches."""
        condition = self.conditions[planned["condition"][0]]
        if condition.patch is None:
            return condition
        return replace(condition, sources=dict(planned.select("sample_id", "source_sample_id").iter_rows()))

    def _blocks(self, condition: Condition) -> list[Block]:
        """The attention that the condition blocks; raises where this model cannot have that, or what it steers with."""
        if condition.steer is not None:
            check_writable(self.model)
            check_width(condition.name, condition.steer, self.model.d_model)
        if condition.patch is not None:
            check_writable(self.model)
            if condition.patch.point == "attention-input":
                check_attention(self.model, condition.patch.layers)
        blocks = [parse_block(block, n_layers=self.model.n_layers) for block in condition.blocked]
        check_blocks(self.model, blocks)
        return blocks

    def _taken(
        self, pieces: Sequence[_Piece], coming: Sequence[_Piece], advance: Callable[[int], None]
    ) -> list[Taken | str]:
        """What was kept of each sample, or why nothing was. A batch is launched before the one before it is looked at,
        the first of a piece too: while the next piece is sorted, the device has the last batch of this one."""
        found: list[Taken | str] = []
        under_way: deque[tuple[list[int], _Wait]] = deque()

        def land() -> None:
            at, wait = under_way.popleft()
            for i, taken in zip(at, wait(), strict=True):
                found[i] = taken
            advance(len(at))

        for number, piece in enumerate(pieces):
            for each in coming[number : number + 2]:
                if each.is_wanted:
                    self.encoder.ahead(each.planned)
            first, outcomes = len(found), self._encoded(piece)
            found += [outcome if isinstance(outcome, str) else NOT_RUN for outcome in outcomes]
            fine = [(first + i, one) for i, one in enumerate(outcomes) if not isinstance(one, str)]
            advance(len(outcomes) - len(fine) if piece.is_wanted else 0)
            for batch in self.model.batches([sample for _, sample in fine], self.batch_size):
                samples = [fine[j][1] for j in batch]
                if piece.wanted is not None and piece.wanted.isdisjoint(one.sample_id for one in samples):
                    continue
                under_way.append(([fine[j][0] for j in batch], self._start(samples, piece.condition)))
                if len(under_way) > LAUNCHED_AHEAD:
                    land()
        while under_way:
            land()
        return found

    def _encoded(self, piece: _Piece) -> list[Encoded | str]:
        """Each sample as the model takes it, or why it is not run."""
        if not piece.is_wanted:
            return [NOT_RUN] * piece.planned.height
        return [self.encoder.encode(row) for row in piece.planned.iter_rows(named=True)]

    def _encode_asked(self, sample_id: str) -> Encoded | str:
        """A sample that some other's patch is taken from."""
        row = self.asked.get(sample_id)
        if row is None:
            return "it is not among the samples"
        return self.encoder.encode(row)

    def _run(self, encoded: Sequence[Encoded], condition: Condition) -> list[Taken | str]:
        """One batch; samples that are not finite fail alone, a batch too large for the memory is halved, and one that
        cannot be run is run sample by sample."""
        return self._start(encoded, condition)()

    def _start(self, encoded: Sequence[Encoded], condition: Condition, *, again: bool = False) -> _Wait:
        """Launch one batch, `again` if it is a sample that failed before; what is returned waits for it."""
        if not encoded:
            return list
        if len(encoded) > self.batch_size:
            return partial(self._in_pieces, encoded, condition)
        at = [self._positions(sample) for sample in encoded]
        try:
            found = self.sources.of(encoded, condition, self.batch_size) if condition.patch else []
            sources = [source for source in found if isinstance(source, Source)]
            if len(sources) < len(found):
                return partial(self._without, encoded, condition, found)
            batch = self.model.collate(encoded)
            with self._under(condition, batch, sources):
                begun = begin(
                    self.model,
                    batch,
                    [self._selection(each, sample.layout) for each, sample in zip(at, encoded, strict=True)],
                    layers=self.layers,
                    blocks=self.kv_blocks,
                    next_token=self.recipe.capture.next_token,
                    attention=self.attention,
                )
            texts = self._texts(encoded, condition, sources)
        except NotFiniteError as error:  # in a source
            return partial(self._without_these, encoded, condition, error)
        except ActstoreError:  # of all samples
            raise
        except Exception as error:  # what failed is held in memory until the error is let go of
            failure = failure_of(error)
        else:
            split = partial(self._split, batch, at, texts, sources)
            return partial(self._finish, encoded, condition, begun, split, again)
        return partial(self._otherwise, encoded, condition, failure, again)

    def _finish(
        self,
        encoded: Sequence[Encoded],
        condition: Condition,
        begun: Begun,
        split: Callable[[Captured], list[Taken | str]],
        again: bool,
    ) -> list[Taken | str]:
        """Wait for a batch; it runs again without samples that are not finite."""
        try:
            captured = begun.result()
        except NotFiniteError as error:
            return self._without_these(encoded, condition, error)
        except ActstoreError:
            raise
        except Exception as error:
            failure = failure_of(error)
        else:
            return split(captured)
        return self._otherwise(encoded, condition, failure, again)

    def _otherwise(
        self, encoded: Sequence[Encoded], condition: Condition, failure: Failure, again: bool
    ) -> list[Taken | str]:
        """What did not run together, in smaller batches or one by one; one that failed alone is tried once more."""
        self.failures.check_device(failure)
        torch.cuda.empty_cache()
        if len(encoded) == 1:
            if again:
                return [self.failures.reason(failure, encoded[0].length)]
            return self._start(encoded, condition, again=True)()
        if failure.is_of_memory:
            return self._in_smaller(encoded, condition)
        self._warn(f"{len(encoded)} samples that cannot be run together are run one by one: {failure.text}")
        return [taken for sample in encoded for taken in self._start([sample], condition, again=True)()]

    @contextmanager
    def _under(self, condition: Condition, batch: Batch, sources: Sequence[Source]) -> Iterator[None]:
        """Forwards of the batch run under the condition."""
        blocks = self.blocks[condition.name]
        for block in blocks:
            if not role_slots(batch, block.keys, condition.seed).any():
                names = " or ".join(role.name for role in block.keys)
                self._warn(f"there is no {names} here: conditions that keep attention from it change nothing")
        steer = condition.steer
        if steer is not None and not role_slots(batch, [parse_role(steer.role)], condition.seed).any():
            self._warn(f"there is no {steer.role} here: conditions that steer it change nothing in the prompt")
        with ExitStack() as hooks:
            hooks.enter_context(block_attention(self.model, batch, blocks, seed=condition.seed))
            if condition.patch is not None:
                hooks.enter_context(self.sources.patched(batch, condition.patch, sources))
            if steer is not None:
                hooks.enter_context(steered(self.model, batch, steer, seed=condition.seed))
            yield

    def _warn(self, text: str) -> None:
        """Say it once."""
        if text not in self.warned:
            self.warned.add(text)
            self.say(text)

    def _without_these(
        self, encoded: Sequence[Encoded], condition: Condition, error: NotFiniteError
    ) -> list[Taken | str]:
        """The batch without the samples that the error names."""
        bad = [str(error) if sample.sample_id in error.sample_ids else None for sample in encoded]
        return self._without(encoded, condition, bad)

    def _without(self, encoded: Sequence[Encoded], condition: Condition, bad: Sequence[object]) -> list[Taken | str]:
        """The batch without the samples for which `bad` says a reason."""
        fine = [sample for sample, reason in zip(encoded, bad, strict=True) if not isinstance(reason, str)]
        rest = iter(self._run(fine, condition))
        return [reason if isinstance(reason, str) else next(rest) for reason in bad]

    def _in_smaller(self, encoded: Sequence[Encoded], condition: Condition) -> list[Taken | str]:
        """A batch that was too large for the memory, in batches of half its size or less."""
        if self.batch_size >= len(encoded):
            self.batch_size = len(encoded) // 2
            self.say(f"not enough memory for {len(encoded)} samples at once; going on with {self.batch_size}")
        return self._in_pieces(encoded, condition)

    def _in_pieces(self, encoded: Sequence[Encoded], condition: Condition) -> list[Taken | str]:
        """A batch that is larger than batches may be by now."""
        found: list[Taken | str] = []
        while len(found) < len(encoded):
            found += self._run(encoded[len(found) : len(found) + self.batch_size], condition)
        return found

    def _selection(self, at: dict[Role, Positions], layout: Layout) -> Selection:
        roles = _of(at, self.roles)
        return Selection(
            _in_turn([at[role] for role in roles if not role.is_mean]),
            tuple(own for role in roles if role.is_mean for own in layout.by_picture(at[role])),
            _in_turn([at[role] for role in _of(at, self.kv)]),
        )

    def _positions(self, sample: Encoded) -> dict[Role, Positions]:
        """The roles this sample has, with their positions; ActstoreError for an image's that is not there yet."""
        seed = self.recipe.seed
        for role, layer in self.changed.items():
            at = positions(role, sample.layout, seed=seed, sample_id=sample.sample_id)
            if at is not None and layer < self.model.inject and np.isin(at, sample.layout.image).any():
                raise ActstoreError(
                    f"{role.name} at layer {layer}: this adapter puts the image in at layer {self.model.inject}, and "
                    "below its positions hold nothing to patch or to steer; take layers from there on, or roles of text"
                )
        roles = dict.fromkeys([*self.roles, *self.kv])
        found = {role: positions(role, sample.layout, seed=seed, sample_id=sample.sample_id) for role in roles}
        return {role: at for role, at in found.items() if at is not None}

    def _texts(self, encoded: Sequence[Encoded], condition: Condition, sources: Sequence[Source]) -> list[str | None]:
        """What the model generates after each sample, if that is wanted."""
        wanted = self.recipe.capture.max_new_tokens
        if not wanted:
            return [None] * len(encoded)
        found: list[str | None] = [None] * len(encoded)
        for same in together(self.model, encoded, self.generation):
            batch = self.model.collate([encoded[i] for i in same], left=True)
            with self._under(condition, batch, [sources[i] for i in same] if sources else []):
                texts = generate(self.model, batch, max_new_tokens=wanted, way=self.generation)
            for i, text in zip(same, texts, strict=True):
                found[i] = text.strip()
        return found

    def _split(
        self,
        batch: Batch,
        at: Sequence[dict[Role, Positions]],
        texts: Sequence[str | None],
        sources: Sequence[Source],
        captured: Captured,
    ) -> list[Taken | str]:
        """The captured batch, sample by sample and role by role."""
        self.failures.none()
        residual, means = self._stored(captured.residual), captured.means.numpy()
        kv = [np.empty(0) if x is None else self._stored(x) for x in (captured.keys, captured.values)]
        said = self.said.after(captured.next_logits, texts, sources)
        found: list[Taken | str] = []
        row = mean = place = 0
        for i, where in enumerate(at):
            vectors: dict[str, Array] = {}
            for role in _of(where, self.roles):
                n = len(batch.layouts[i].by_picture(where[role])) if role.is_mean else len(where[role])
                if role.is_mean:
                    vectors[role.name], mean = means[:, mean : mean + n], mean + n
                else:
                    vectors[role.name], row = residual[:, row : row + n], row + n
                self._empty(vectors[role.name], self.layers, where[role], batch.layouts[i])
            keys: dict[str, Array] = {}
            values: dict[str, Array] = {}
            for role in _of(where, self.kv):
                n = len(where[role])
                keys[role.name], values[role.name] = (x[:, place : place + n] for x in kv)
                place += n
                for x in (keys[role.name], values[role.name]):
                    self._empty(x, self.kv_blocks, where[role], batch.layouts[i])
            attention = _attention_of(captured.attention, i)
            found.append(Taken(batch.layouts[i], where, vectors, keys, values, attention, said[i]))
        return found

    def _empty(self, x: Array, firsts: Sequence[int], at: Positions, layout: Layout) -> None:
        """Make NaN, in vectors (layers or blocks, n, width) at these positions, what is of an image not there yet, and
        means over such.
        """
        early = np.flatnonzero(np.array(firsts) < self.model.inject)
        of_image = np.isin(at, layout.image)
        if len(early) and of_image.any():
            which = of_image.nonzero()[0] if len(at) == x.shape[1] else np.arange(x.shape[1])
            x[np.ix_(early, which)] = dtype_named(self.dtype).fill if x.dtype == np.uint16 else np.nan

    def _stored(self, residual: torch.Tensor) -> NDArray[np.generic]:
        """Vectors as numpy: bit patterns where the store keeps bfloat16, else float32."""
        if self.dtype == "bfloat16":  # rounded here, in one pass; numpy needs ten
            return residual.to(torch.bfloat16).view(torch.uint16).numpy()
        return residual.float().numpy()


def _changed(conditions: Iterable[Condition]) -> dict[Role, int]:
    """The first layer at which each role is patched or steered."""
    found = [(parse_role(one.patch.role), min(one.patch.layers)) for one in conditions if one.patch]
    found += [(parse_role(one.steer.role), one.steer.layer) for one in conditions if one.steer]
    return {role: min(layer for other, layer in found if other == role) for role, _ in found}


def _attention(recipe: Recipe) -> AttentionSelection | None:
    capture = recipe.capture
    if not capture.attention and not capture.mass:
        return None
    keys = tuple(parse_role(name) for name in capture.attention)
    return AttentionSelection(keys=keys, per_head=capture.per_head, mass=capture.mass, seed=recipe.seed)


def _attention_of(captured: CapturedAttention | None, sample: int) -> dict[str, Array]:
    """The attention of one sample: columns (layers, heads or 1, queries) by key role, and the mass (layers, keys); none
    to a role that it has not."""
    if captured is None:
        return {}
    columns = {name: columns[:, sample].numpy() for name, columns in captured.columns.items()}
    found: dict[str, Array] = {name: one for name, one in columns.items() if not np.isnan(one).all()}
    return found if captured.mass is None else found | {"mass": captured.mass[:, sample].numpy()}


def _of(at: dict[Role, Positions], roles: Sequence[Role]) -> list[Role]:
    """Those of the roles that the sample has."""
    return [role for role in roles if role in at]


def _in_turn(at: Sequence[Positions]) -> Positions:
    return np.concatenate([*at, np.empty(0, np.int64)]).astype(np.int64)
