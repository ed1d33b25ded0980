"""Calls of `actstore lens`: what the model would say at each role and layer, by the logit lens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from actstore.errors import ActstoreError
from actstore.format.lens import Lens
from actstore.read.tokens import as_read
from actstore.store import Store
from actstore_analyze.lens.measure import Readings, read
from actstore_analyze.study import answers, held, pieces
from actstore_analyze.study.intervals import BY_SAMPLE, by_sample, of_mean
from actstore_analyze.study.selection import USUAL, Group, Say, choose, groups, known_roles
from actstore_analyze.study.study import EVERYTHING, NO_INTERVAL, RESIDUAL, PerLayer, WithInterval, n_layers
from actstore_analyze.study.units import sampled

__all__ = ["LogitLens"]

VECTORS = 4096  # of all layers together, read at a time
SAMPLES = 256  # of a unit: a share of the work for one process
TOP = 5  # tokens that the table names
SPACES = ("Ġ", "▁", " ", "")  # what tokenizers write in front of a word, likeliest first

NO_LENS = (
    "{}: no lens is stored; extract it with: actstore extract RECIPE STORE --set capture.lens=true "
    "(in a recipe: [capture] lens = true)"
)

PLACE = ("role", "condition", "layer", "depth")
ENDS = ("low", "high", "right_low", "right_high", "entropy_low", "entropy_high", "divergence_low", "divergence_high")


class Unit(NamedTuple):
    """Some samples of a role under a condition: rows with row_id, sample_id and the token of the label, -1 for none."""

    role: str
    condition: str
    rows: pl.DataFrame


@dataclass(frozen=True, kw_only=True)
class LogitLens(WithInterval, PerLayer):
    """Probability and rank of the label's token, entropy, and how far the last layer's distribution is."""

    roles: tuple[str, ...]
    label: str | None = None
    positions: int | None = None
    seed: int = 0
    interval: str = "samples, of right too"

    measure: ClassVar[str] = "lens"
    always: ClassVar[tuple[str, ...]] = ("label",)

    @classmethod
    def of(cls, store: Store, *, roles: Sequence[str] | None = None, label: str | None = None, **asked: Any) -> Self:
        """The call with its roles and layers checked; without a label: the column label, if there is one.

        Raises ActstoreError for a store without a lens.
        """
        if store.header.lens is None:
            raise ActstoreError(NO_LENS.format(store))
        usual = [role for role in (*USUAL, "last") if role in store.roles] or None
        label = label or answers.right(store, "label" if "label" in store.plan.columns else None)
        return super().of(store, roles=known_roles(store, roles or usual), label=label, **asked)

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        what = f"Logit lens, “{self.label}”" if self.label else "Logit lens"
        return ", ".join([what, *([self.sql] if self.sql != EVERYTHING else [])])

    @property
    def caption(self) -> str:
        """What the figure shows."""
        return (
            f"What the model would say if its stream ended at each role's vectors, at each layer ({self.chosen}). "
            f"Above: the mean probability of the token of “{self.label}”, band: {self._band}; the "
            "entropy where no label is a token. Below: the divergence of the last layer's distribution from it. Early "
            "layers are read with a norm and an unembedding that were made for the last."
        )

    @property
    def _band(self) -> str:
        return "one standard error over samples" if self.interval == NO_INTERVAL else "95 % interval over samples"

    @property
    def methods(self) -> str:
        """How it was computed."""
        return (
            "Logit lens (nostalgebraist 2020): the model's final norm and unembedding, as the store keeps them, on "
            f"each vector. The token of a label of “{self.label}” is the one that the recipe's answers give it, else "
            "the vocabulary's token that is the label, rather with a space before it. Rank: the tokens that are "
            "likelier, plus one. Divergence: Kullback-Leibler, in nats, of the distribution at the same vector's last "
            f"layer from the one at this. Positions of a sample are averaged first. "
            f"{self.on_interval(BY_SAMPLE)}Rows: {self.sql}. "
            f"Vectors: {RESIDUAL}."
        )

    def units(self, store: Store, *, say: Say) -> list[Unit]:
        """The samples of roles and conditions, some at a time, at all layers."""
        rows = choose(store, self.sql, self.roles, self.label, say=say)
        tokens = _tokens(store, rows["label"].cast(pl.String).unique().drop_nulls().sort().to_list(), say=say)
        rows = rows.with_columns(token=pl.col("label").cast(pl.String).replace_strict(tokens, default=-1))
        if n_layers(store) not in store.layers:
            say(f"the last layer, {n_layers(store)}, is not stored: no divergence from what the model says")
        return [
            Unit(group.role, group.condition, own)
            for group in groups(rows, self.roles, say=say)
            for own in _shares(store, sampled(group, self.positions, self.seed))
        ]

    def rows(self, store: Store, unit: Unit) -> pl.DataFrame:
        """A row for each sample and layer; positions averaged, with the number of each likeliest token."""
        lens, last = store.lens, n_layers(store)
        assert lens is not None, "the call was checked"
        first = held.held_from(store, unit.rows)
        layers = [layer for layer in self.layers if layer >= first]
        if not layers:
            raise held.NothingHeldError(held.left_out(store))
        layers += [last] if last in store.layers and last not in layers else []
        found = []
        at = layers.index(last) if last in layers else None
        step = max(1, VECTORS // len(layers))
        for block in unit.rows.iter_slices(max(step, pieces.BLOCK_BYTES // (4 * store.header.d_model * len(layers)))):
            vectors = store.residual(block, layers=layers)
            for start in range(0, block.height, step):
                piece = block[start : start + step]
                x = np.ascontiguousarray(vectors[start : start + step].swapaxes(0, 1))
                found.append(_long(piece, layers, _read(unit, lens, x, piece["token"].to_numpy(), at)))
        long = pl.concat(found).filter(pl.col("layer").is_in(self.layers))
        long = long.join(store.vocabulary, left_on="top", right_on="token_id", how="left", maintain_order="left")
        said = pl.coalesce(as_read(long["token"], store.vocabulary["token"]), pl.format("#{}", "top")).alias("said")
        per_sample = long.with_columns(said).group_by("layer", "sample_id", maintain_order=True)
        return per_sample.agg(
            pl.col("probability", "right", "entropy", "divergence").mean(),
            pl.col("rank").median(),
            pl.col("said").value_counts(),
        ).select(
            pl.lit(unit.role).alias("role"),
            pl.lit(unit.condition).alias("condition"),
            pl.col("layer").cast(pl.Int32),
            (pl.col("layer") / n_layers(store)).alias("depth"),
            pl.exclude("layer"),
        )

    def finish(self, rows: pl.DataFrame) -> pl.DataFrame:
        """role, condition, layer, depth, probability, low, high, se, rank, rank_q25, rank_q75, right, right_low,
        right_high, entropy, entropy_low, ..., divergence, divergence_low, ..., top_tokens, labelled, n: one row each.

        low, high: 95 % interval of the probability, those of the others named by them; NULL of fewer than 2 samples.

        probability, rank (the median) and right (the share of samples where it is the likeliest) are of the label's
        token, over the samples that are labelled; top_tokens names the likeliest, with the share of vectors of each.
        """
        probability, rank = pl.col("probability"), pl.col("rank")
        error = (probability.std() / probability.count().sqrt()).fill_nan(None)
        table = rows.group_by(*PLACE, maintain_order=True).agg(
            probability.mean(),
            error.alias("se"),
            rank.median(),
            rank.quantile(0.25, "linear").alias("rank_q25"),
            rank.quantile(0.75, "linear").alias("rank_q75"),
            pl.col("right", "entropy", "divergence").mean(),
            probability.count().alias("labelled"),
            pl.len().cast(pl.Int64).alias("n"),
        )
        said = (
            rows.select(*PLACE, "said")
            .explode("said")
            .unnest("said")
            .group_by(*PLACE, "said", maintain_order=True)
            .agg(pl.col("count").sum())
            .with_columns(share=pl.col("count") / pl.col("count").sum().over(PLACE))
            .sort("share", "said", descending=[True, False])
            .with_columns(text=pl.format("{} {}", "said", pl.col("share").round(3)))
            .group_by(*PLACE, maintain_order=True)
            .agg(top_tokens=pl.col("text").head(TOP).str.join(", "))
        )
        order = {role: place for place, role in enumerate(self.roles)}
        by_role = pl.col("role").replace_strict(order)
        return (
            table.join(said, on=PLACE)
            .join(self._ends(rows), on=PLACE)
            .sort(by_role, "condition", "layer")
            .select(
                *(*PLACE, "probability", "low", "high", "se", "rank", "rank_q25", "rank_q75", "right"),
                *("right_low", "right_high"),
                *("entropy", "entropy_low", "entropy_high", "divergence", "divergence_low", "divergence_high"),
                *("top_tokens", "labelled", "n"),
            )
        )  # fmt: skip

    def _ends(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The intervals at each place, NULL where none are asked for and where there are fewer than 2 samples."""
        found = []
        for place, own in rows.group_by(*PLACE, maintain_order=True):
            ends: list[float | None] = []
            for name, bounds in (
                ("probability", by_sample),
                ("right", by_sample),
                ("entropy", of_mean),
                ("divergence", of_mean),
            ):
                values = own[name].drop_nulls().to_numpy()
                ends += bounds(values) if self.has_interval and len(values) > 1 else (None, None)
            found.append((*place, *ends))
        schema = {name: rows.schema[name] for name in PLACE} | dict.fromkeys(ENDS, pl.Float64)
        return pl.DataFrame(found, schema=schema, orient="row")


def _tokens(store: Store, labels: Sequence[str], *, say: Say) -> dict[str, int]:
    """The token that stands for each label; labels that are no tokens are said and left out."""
    known = answers.tokens(store)
    given = {name.strip(): token for name, token in known.items()} | known
    ids = dict(store.vocabulary.select("token", "token_id").iter_rows())
    found = dict(given)
    for label in labels:
        spelled = [ids[mark + label] for mark in SPACES if mark + label in ids]
        if label not in found and spelled:
            found[label] = spelled[0]
    missing = [label for label in labels if label not in found]
    if missing:
        say(
            f"{len(missing)} of {len(labels)} labels are no single token, the first '{missing[0]}': no probability of "
            "them; a recipe's [capture] answers says which tokens stand for them"
        )
    return {label: found[label] for label in labels if label in found}


def _shares(store: Store, group: Group) -> list[pl.DataFrame]:
    """The rows of a group, whole samples, about SAMPLES at a time, those of a part together where they are no more."""
    rows = pl.concat(group.positions).select("row_id", "sample_id", "token").sort("row_id")
    sample = rows["sample_id"].rle_id() if group.positions[1:] else pl.int_range(rows.height, eager=True)
    part = pl.Series(pieces.part_of(store, rows["row_id"].to_numpy()))
    number, first = pl.col("sample").cast(pl.Int64), pl.col("sample").min().over("part").cast(pl.Int64)
    is_large = number.max().over("part") - first >= SAMPLES
    some = first + (number - first) // SAMPLES * SAMPLES
    share = pl.when(is_large).then(-1 - some).otherwise(first // SAMPLES * SAMPLES).alias("share")
    shared = rows.with_columns(rows.with_columns(sample=sample, part=part).select(share))
    return shared.partition_by("share", maintain_order=True, include_key=False)


def _read(unit: Unit, lens: Lens, x: NDArray[np.float32], tokens: NDArray[np.int64], last: int | None) -> Readings:
    try:
        return read(lens, x, tokens, k=1, last=last)
    except ActstoreError as error:
        raise ActstoreError(f"role '{unit.role}': {error}") from None


def _long(rows: pl.DataFrame, layers: Sequence[int], found: Readings) -> pl.DataFrame:
    """One row for each vector: layer, sample_id, top, right, probability, rank, entropy, divergence; NULL for none."""
    named = np.tile((rows["token"] >= 0).to_numpy(), len(layers))
    frame = pl.DataFrame(
        {
            "layer": np.repeat(np.array(layers), rows.height),
            "sample_id": pl.concat([rows["sample_id"]] * len(layers)),
            "top": found.tokens.ravel().astype(np.int32),
            "rank": found.rank.ravel(),
            "probability": found.probability.ravel(),
            "entropy": found.entropy.ravel(),
            "divergence": found.divergence.ravel(),
            "named": named,
        }
    )
    asked = pl.when("named")
    return frame.with_columns(
        pl.col("probability", "divergence").fill_nan(None),
        asked.then("rank").alias("rank"),
        asked.then((pl.col("rank") == 1).cast(pl.Float64)).alias("right"),
    )
