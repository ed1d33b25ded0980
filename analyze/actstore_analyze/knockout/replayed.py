"""Calls of `actstore knockout --replay`: knockouts that did not run at extraction, replayed from a store on a CPU."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self
from unicodedata import normalize

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.progress import bar
from actstore.store import Store
from actstore_analyze.knockout.differences import PAIRED, left, of_overlaps
from actstore_analyze.knockout.study import FOUND, as_found, averaged, means, say_copies, with_share
from actstore_analyze.overlap.measure import chance_level
from actstore_analyze.patch import measure as patching
from actstore_analyze.patch.replayed import compared
from actstore_analyze.study import answers
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.differences import of_samples
from actstore_analyze.study.intervals import wilson
from actstore_analyze.study.knocked import Knocked, as_knocked
from actstore_analyze.study.said import SPACES
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import EVERYTHING, METRICS, RESIDUAL, WithInterval, n_layers
from actstore_analyze.study.words import tokens_of

__all__ = ["KnockoutReplayed"]


@dataclass(frozen=True, kw_only=True)
class KnockoutReplayed(WithInterval):
    """Knockouts by their names in a recipe, such as eoi-knockout, or as its tables, written inline.

    mode, windows, blocks, heads, repeats: of those that do not say. blocked: what each is, as in a run card.
    """

    replay: tuple[str, ...]
    mode: str = "post"
    windows: int | None = None
    blocks: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    repeats: int | None = None
    blocked: dict[str, Any] | None = None
    label: str = "label"
    k: int = 30
    limit: int | None = None
    model: str | None = None
    dtype: str | None = None
    tolerance: float | None = None
    forced: bool = False
    low_memory: bool = field(default=False, compare=False)
    interval: str = "paired, pairs once"

    measure: ClassVar[str] = "knockout_replayed"
    verb: ClassVar[str] = "knockout"
    always: ClassVar[tuple[str, ...]] = ("k", "mode")

    @classmethod
    def of(cls, store: Store, *, layers: Sequence[int] | None = None, **asked: Any) -> Self:
        """The call; its layer is the output. ActstoreError for what is no knockout of this model."""
        if layers not in (None, [n_layers(store)]):
            raise ActstoreError("replayed knockouts are compared at the output: leave --layers out, or say --blocks")
        call = cls(layers=(n_layers(store),), **asked)
        return replace(call, blocked={one.name: one.card() for one in call._conditions(store) if one.blocked})

    def _conditions(self, store: Store) -> list[Any]:  # Conditions, of a package that loads late
        """The model as it is, and the knockouts."""
        from actstore_extract.recipe.inline import conditions_of

        given = {"windows": self.windows, "layers": self.blocks, "heads": self.heads, "repeats": self.repeats}
        usual = {name: list(one) if isinstance(one, tuple) else one for name, one in given.items() if one is not None}
        seed = int(store.run.get("seed") or 0)
        return conditions_of(self.replay, n_layers=n_layers(store), seed=seed, mode=self.mode, **usual)

    def beside(self, tables: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
        """As for every study, and share, what is left of the model as it is."""
        return super().beside({store: with_share(table) for store, table in tables.items()})

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result, which does not depend on how much memory there was."""
        return {name: value for name, value in super().parameters.items() if name != "low_memory"}

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        asked = [f"Attention knockout, replayed ({self.mode}-softmax), k = {self.k}"]
        return ", ".join([*asked, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            "What is left while the text is kept from attending to a part of the image, replayed from the store: in "
            f"the last blocks, as many as the axis says, and below in all blocks ({self.chosen}). Dotted: chance."
        )

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            "Attention knockout (Serra et al., The Narrow Gate), replayed on a CPU from stored residual streams and "
            "the decoder's weights: attention of the queries to the keys is set to zero, after the softmax without "
            "renormalisation (mode post) or before it (mode pre). The model as it is is replayed too, and checked "
            f"against what it said at extraction. Label overlap with “{self.label}” at k = {self.k} of the last "
            f"token's vectors at the output ({RESIDUAL}), {METRICS['euclidean']}; how often the next token is the "
            f"label, or the first token of the sample's own answer, with its 95 % Wilson interval. "
            f"{self.on_interval(PAIRED)}Rows: {self.sql}."
        )

    def command(self, store: Any) -> str:
        """The command line of the call."""
        return super().command(store).replace("--forced", "--force")

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """As `actstore knockout` makes it of knockouts that ran online."""
        from actstore_extract.replay import Reader, chosen, stored

        reader = Reader(store)
        table = chosen(store, self.sql, self.label).head(self.limit or store.plan.height)
        if not table.height or table["label"].null_count():
            raise ActstoreError(
                f"every sample needs a '{self.label}' (--label): what is left of it is what is measured"
            )
        labels = dict(table.select("sample_id", "label").iter_rows())
        own = answers.own(store)
        conditions = self._conditions(store)
        samples = list(stored(reader, list(labels)).values())
        from actstore_extract.replay import Check, knocked_out, recorded_decoder

        decoder = recorded_decoder(
            store.run, path=self.model, dtype=self.dtype, low_memory=self.low_memory, force=self.forced, say=say
        )
        check = Check(store, decoder, self.tolerance)
        pairs = [(one, one) for one in {*labels.values()}]
        tokens = None if own else tokens_of(store, decoder.tokens, decoder.unknown, pairs, {}, say=say)
        last: dict[str, list[NDArray[np.float32]]] = {}
        said: list[tuple[str, str, bool, float | None]] = []
        with bar(len(samples) * len(conditions), "samples") as progress:
            for found in knocked_out(reader, samples, decoder, conditions, check, progress.advance):
                last.setdefault(found.condition, []).append(found.last)
                for name, p in zip(found.sample_ids, patching.probabilities(found.logits), strict=True):
                    token = own[name] if own else None if tokens is None else tokens[labels[name]]
                    likeliest = int(p.argmax())
                    text = normalize("NFC", decoder.text(likeliest).strip(SPACES))
                    is_right = likeliest == token if own else text == normalize("NFC", labels[name])
                    said.append((found.condition, name, is_right, None if token is None else float(p[token])))
        say(compared(check.deviations, check.tolerance))
        told = pl.DataFrame(said, schema=["condition", "sample_id", "right", "p"], orient="row")
        y = pl.Series(list(labels.values())).rank("dense").cast(pl.Int64).to_numpy()
        at_output = {name: np.concatenate(pieces) for name, pieces in last.items()}
        if len(samples) <= self.k:
            say(f"no label overlap: {len(samples)} samples are too few for {self.k} neighbours (-k)")
            at_output = {}
        overlaps = [left(name, list(labels), [(x, y)], self.k) for name, x in at_output.items()]
        say_copies(overlaps, "last", say=say)
        index = ["condition", "sample_id"]
        right = told.select(*index, metric=pl.lit("accuracy"), value=pl.col("right").cast(pl.Float64))
        p = told.drop_nulls("p").select(*index, metric=pl.lit("answer_probability"), value="p")
        measured = pl.concat([as_found(overlaps, chance_level(y)), _accuracy(told, _commonest(y)), means(p)])
        differences = pl.concat([of_overlaps(overlaps), of_samples(pl.concat([right, p.cast(right.schema)]))])
        named = [as_knocked(name, blocks[0], n_layers(store)) for name, blocks in (self.blocked or {}).items()]
        return averaged(measured, differences, [Knocked(NONE, NONE, 0, None), *named], n_layers(store))


def _commonest(y: NDArray[np.int64]) -> float:
    """The share of the commonest label: what always saying it would get right."""
    return float(np.bincount(y).max() / len(y))


def _accuracy(told: pl.DataFrame, chance: float) -> pl.DataFrame:
    """FOUND, of how often the next token is the label."""
    counted = told.group_by("condition", maintain_order=True).agg(pl.col("right").sum(), n=pl.len())
    rows = [(name, "accuracy", right / n, *wilson(int(right), n), chance, n) for name, right, n in counted.iter_rows()]
    return pl.DataFrame(rows, schema=FOUND, orient="row")
