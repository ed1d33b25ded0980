"""Scores of what the model said, by condition and split, against columns of the plan."""

import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self
from unicodedata import normalize

import polars as pl

from actstore.errors import ActstoreError, nearest
from actstore.store import Store
from actstore_analyze.score.tasks import MIRRORED, TASKS, Score, numbered
from actstore_analyze.study.conditions import NONE
from actstore_analyze.study.differences import DIFFERENCE, TOLD, of_samples
from actstore_analyze.study.said import SPACES
from actstore_analyze.study.selection import Say

__all__ = ["ALL", "EVERY_SAMPLE", "Scored"]

SAID = ("generated_text", "next_token")
ALL = "all"
EVERY_SAMPLE = "from samples"
WORDS = ("answer", "caption", "raw", "text")  # where records of published data sets have theirs
_LIST = re.compile(r"\[\s*(['\"{\[]|$)")  # as Python or numpy write one

SCHEMA = {
    **dict.fromkeys(("task", "metric", "condition", "split"), pl.String),
    **dict.fromkeys(("score", "low", "high", *DIFFERENCE), pl.Float64),
    "n": pl.Int64,
    **dict.fromkeys(("said", "truth"), pl.String),
}


@dataclass(frozen=True)
class Scored:
    """A call of `actstore score`. The fields are the parameters of the saved result."""

    task: str
    sql: str
    said: str
    truth: str
    differences: bool = True

    measure: ClassVar[str] = "score"

    @classmethod
    def of(
        cls,
        store: Store,
        *,
        task: str,
        sql: str = EVERY_SAMPLE,
        said: str | None = None,
        truth: str | None = None,
        **others: Any,
    ) -> Self:
        """The call with its columns found: those named, or else the task's, and the longest that the model said."""
        known = store.sql(f"from (\n{_query(sql)}\n) limit 0").columns
        if said is None:
            counted = [name for name in SAID if name in known and _count(store, sql, name)]
            if not counted:
                raise ActstoreError(f"{store}: the samples say nothing: no {' or '.join(SAID)} (--said COLUMN)")
            said = counted[0]
        if truth is None:
            truth = next((name for name in TASKS[task].columns if name in known), None)
            if truth is None:
                expected = " or ".join(TASKS[task].columns)
                raise ActstoreError(f"{store}: no column {expected} for --task {task}; name one with --truth")
        for name in (said, truth, *TASKS[task].needs):
            if name not in known:
                raise ActstoreError(f"no column '{name}', only {', '.join(known)}{nearest(name, known)}")
        return cls(task, sql, said, truth, **others)

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result."""
        return asdict(self)

    def command(self, store: Path | str) -> str:
        """The command line of the call."""
        words = ["actstore", "score", str(store), *([self.sql] if self.sql != EVERY_SAMPLE else [])]
        return shlex.join([*words, "--task", self.task, "--said", self.said, "--truth", self.truth])

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """SCHEMA: for each condition all splits together, then each.

        difference: from the model as it is, over the same samples, with its 95 % interval; NULL of that itself, of what
        is no mean over samples, and of rows without a sample_id. Not there if every score is of the model as it is.
        """
        samples = self.samples(store, say=say)
        table = self.scored(samples)
        if set(table["condition"]) == {NONE}:
            return table.drop(DIFFERENCE)
        found = [(ALL, samples), *samples.drop_nulls("split").group_by("split", maintain_order=True)]
        differences = [
            of_samples(self.told(own)).select(
                pl.lit(name[0] if isinstance(name, tuple) else name).alias("split"), pl.all()
            )
            for name, own in found
        ]
        on = ["split", "condition", "metric"]
        joined = table.drop(DIFFERENCE).join(pl.concat(differences), on=on, how="left", maintain_order="left")
        return joined.select(table.columns)

    def scored(self, samples: pl.DataFrame) -> pl.DataFrame:
        """SCHEMA of samples, without differences."""
        parts = []
        for (condition,), own in samples.group_by("condition", maintain_order=True):
            parts.append((condition, ALL, own))
            splits = own.filter(pl.col("split").is_not_null())
            parts += [(condition, name, split) for (name,), split in splits.group_by("split", maintain_order=True)]
        rows = [
            (self.task, found.metric, condition, split, *found[1:], None, None, None, own.height, self.said, self.truth)
            for condition, split, own in parts
            for found in self._scores(own, f"{condition}, {split}")
        ]
        return pl.DataFrame(rows, schema=SCHEMA, orient="row")

    def told(self, samples: pl.DataFrame) -> pl.DataFrame:
        """TOLD of samples: what is a mean over them, each by itself."""
        each = TASKS[self.task].each
        found = []
        for (condition,), own in samples.group_by("condition", maintain_order=True):
            if each is None or own["sample_id"].null_count() or own["sample_id"].is_duplicated().any():
                continue
            values = each(own["said"].to_list(), own["truth"].to_list())
            names = own.select(pl.lit(str(condition)).alias("condition"), "sample_id")
            found += [names.with_columns(metric=pl.lit(name), value=pl.Series(of)) for name, of in values.items()]
        return pl.concat([TOLD, *found])

    def _scores(self, own: pl.DataFrame, where: str) -> list[Score]:
        try:
            return TASKS[self.task].score(own)
        except ActstoreError as error:
            raise ActstoreError(f"{where}: {error}") from None

    def samples(self, store: Store, *, say: Say) -> pl.DataFrame:
        """condition, sample_id, split, said, truth (a list) and what the task needs, of what was run and has both."""
        asked = store.sql(_query(self.sql))
        if "status" in asked.columns:
            asked = asked.filter(pl.col("status") == "ok")
        for name in {self.said, "condition", "split"} & {*asked.columns}:
            if asked[name].dtype.is_nested() or asked[name].dtype == pl.Binary:
                raise ActstoreError(
                    f"column '{name}' holds {asked[name].dtype}, not texts; name what is meant: "
                    f'"select * replace ({name}[1] as {name}) from samples"'
                )
        if self.task == "mme" and numbered(asked):
            say(f"the two questions about a picture are those of one {MIRRORED}; the column image numbers the samples")
            asked = asked.with_columns(pl.col(MIRRORED).alias("image"))
        truths = [
            [normalize("NFC", text) for text in _listed(value, self.truth)] for value in asked[self.truth].to_list()
        ]
        found = asked.select(
            condition=pl.col("condition") if "condition" in asked.columns else pl.lit("none"),
            sample_id=pl.col("sample_id") if "sample_id" in asked.columns else pl.lit(None, pl.String),
            split=pl.col("split").cast(pl.String) if "split" in asked.columns else pl.lit(None, pl.String),
            said=pl.col(self.said).cast(pl.String).str.strip_chars(SPACES + "\n\t").str.normalize("NFC"),
            truth=pl.Series(truths, dtype=pl.List(pl.String)),
            **{name: pl.col(name) for name in TASKS[self.task].needs},
        )
        for name, column in (("said", self.said), ("truth", self.truth)):
            bare = found[name].is_null() if name == "said" else found[name].list.len().fill_null(0) == 0
            if bare.any():
                say(f"{bare.sum()} of {found.height} samples have no '{column}'; left out")
            found = found.filter(~bare)
        if not found.height:
            raise ActstoreError(f"nothing to score: no sample has both '{self.said}' and '{self.truth}'")
        return found.sort("condition", "split", nulls_last=True, maintain_order=True)


def _query(sql: str) -> str:
    return sql.strip().rstrip(";")


def _count(store: Store, sql: str, column: str) -> int:
    return int(store.sql(f'select count("{column}") from (\n{_query(sql)}\n)').item())


def _listed(value: object, column: str) -> list[str]:
    """A truth as a list: a list, a JSON list in a text, or a single one; records count as the word that they hold.

    >>> [_listed(value, "answers") for value in (["a", None], '["a", "b"]', 3.0, None, [{"answer": "a", "id": 1}])]
    [['a'], ['a', 'b'], ['3'], [], ['a']]
    """
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            if _LIST.match(str(value)):
                raise ActstoreError(f"column '{column}' holds lists that are no JSON: {str(value)[:40]}") from None
            return [str(value)]
    values = value if isinstance(value, list) else [value]
    return [word for word in (_word(one, column) for one in values) if word is not None]


def _word(value: object, column: str) -> str | None:
    if isinstance(value, dict):
        keys = [key for key in WORDS if key in value]
        if len(keys) == 1 and not isinstance(value[keys[0]], dict | list):
            return _word(value[keys[0]], column)
        raise ActstoreError(
            f"column '{column}' holds records of {', '.join(map(str, value))}, and nothing says which of it is true; "
            f'name it: "select *, [x.{next(iter(value), "a")} for x in {column}] as truth from samples" --truth truth'
        )
    if isinstance(value, list):
        raise ActstoreError(f"column '{column}' holds lists of lists, not of words: {str(value)[:40]}")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # a number with NULLs beside it was read as 3.0, and is said as 3
    return None if value is None else str(value)
