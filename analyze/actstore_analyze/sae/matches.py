"""Match rates: in how many samples a judge finds the image in the descriptions of the sample's features."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import polars as pl

from actstore.errors import ActstoreError
from actstore.store import Store
from actstore_analyze.judge.asking import Judging
from actstore_analyze.judge.client import Question
from actstore_analyze.published import stated
from actstore_analyze.sae.described import Described
from actstore_analyze.sae.features import match_rate
from actstore_analyze.sae.question import PROMPTS, question, text_of
from actstore_analyze.study.recall import answer
from actstore_analyze.study.selection import Say
from actstore_analyze.study.study import depth

__all__ = ["Matched"]

MATCHES = {"strict": "strongly matches", "any": "stands for a key concept of it"}
GROUP = ("role", "prompt_order", "condition")
SCHEMA = {
    **dict.fromkeys((*GROUP, "control"), pl.String),
    "layer": pl.Int32,
    "depth": pl.Float64,
    **dict.fromkeys(("rate", "low", "high"), pl.Float64),
    **dict.fromkeys(("matched", "unclear", "undescribed", "n"), pl.Int64),
}


class Asked(NamedTuple):
    """A question about a sample, None where none of its features has a description."""

    group: tuple[str | None, ...]
    layer: int
    control: str
    question: Question | None


@dataclass(frozen=True, kw_only=True)
class Matched(Judging, Described):
    """A call of `actstore describe --judge`: the features, who judges them, and where the images are."""

    images: str = "."
    controls: bool = False
    prompt: str = "strict"
    prompt_text: str | None = None

    measure: ClassVar[str] = "sae_match"

    @classmethod
    def of(cls, store: Store, *, prompt: str = "strict", **asked: Any) -> Self:
        """As of `Described`; prompt: one of question.PROMPTS, or a file, whose text is kept with the result."""
        text = None if prompt in PROMPTS else text_of(prompt)
        return super().of(store, prompt=prompt, prompt_text=text, **asked)

    @property
    def _asking(self) -> str:
        return self.prompt_text or text_of(self.prompt)

    @property
    def parameters(self) -> dict[str, Any]:
        """As they are kept with the result."""
        return self.kept(super().parameters)

    @classmethod
    def again(cls, parameters: dict[str, Any]) -> Self:
        """The call that a saved result answers; one from before `controls` asked about them, but with no_control."""
        kept = dict(parameters)
        controls = not kept.pop("no_control", True)
        return super().again({"controls": controls, **kept})

    @property
    def title(self) -> str:
        """What was measured, as a heading."""
        return ", ".join(
            [f"Match rate of feature descriptions, judged by {self.judge}", *super().title.split(", ")[1:]]
        )

    @property
    def caption(self) -> str:
        """What the figure shows."""
        control = (
            " Controls: the same descriptions beside another sample's image, and features of the same vectors "
            "rotated, of Gaussian ones and, if there is one, of an untrained adapter beside the sample's own image."
            if self.controls
            else ""
        )
        return f"Share of samples whose image matches one of the descriptions of its features ({self.chosen}).{control}"

    @property
    def methods(self) -> str:
        """How it was computed."""
        asked = MATCHES.get(self.prompt, f"matches, asked as in {self.prompt}")
        return (
            f"{super().methods} The judge ({self.judge}, temperature {self.temperature:g}) sees the image and the "
            f"descriptions, and says whether any {asked}; of a prompt without an image it sees that of the "
            "same sample with one; unclear replies and samples without described features count as no match."
        )

    def _published(self, model: str) -> pl.DataFrame | None:
        return stated.autoencoders("match", model)

    @property
    def features(self) -> Described:
        """The call without the judge."""
        return Described(**{one.name: getattr(self, one.name) for one in fields(Described)})

    def estimate(self, store: Store, *, say: Say) -> str:
        """How much is to be asked, in words."""
        questions = [one.question for one in self.asked(store, say=say) if one.question]
        return self.judgements(store, self._asking).estimate(questions, self.price)

    def table(self, store: Store, *, say: Say) -> pl.DataFrame:
        """SCHEMA. rate: of n samples; unclear replies and samples without described features count as no match."""
        everything = list(self.asked(store, say=say))
        questions = [one.question for one in everything if one.question]
        known = self.judgements(store, self._asking)
        say(known.estimate(questions, self.price))
        known.ask(questions, at_once=self.at_once, say=say)
        found: dict[tuple[Any, ...], list[object]] = {}
        for one in everything:
            verdict = known.reads(one.question) if one.question else "undescribed"
            found.setdefault((*one.group, one.control, one.layer), []).append(verdict)
        return pl.DataFrame(
            [_row(where, verdicts, depth(store, where[-1])) for where, verdicts in found.items()],
            schema=SCHEMA,
            orient="row",
        )

    def asked(self, store: Store, *, say: Say) -> Iterator[Asked]:
        """A question for each sample of each layer and group; with controls also for each of these, and as one more the
        same about the next sample's image."""
        table = answer(store, self.features, say=say).table
        images, loaded = self._images(store, table["sample_id"].unique().to_list()), dict[str, bytes]()
        if not self.controls:
            table = table.filter(pl.col("control") == "none")
        for (*group, kind, layer), own in table.group_by(*GROUP, "control", "layer", maintain_order=True):
            samples = own["sample_id"].to_list()
            shown = {kind: samples}
            if kind == "none" and self.controls and len(samples) > 1:
                shown["shuffled"] = samples[1:] + samples[:1]
            for control, others in shown.items():
                for descriptions, sample in zip(own["descriptions"].to_list(), others, strict=True):
                    asked = (
                        question(descriptions, self._bytes(images[sample], loaded), self._asking)
                        if descriptions
                        else None
                    )
                    yield Asked(tuple(group), int(layer), control, asked)

    def _images(self, store: Store, samples: list[str]) -> Mapping[str, str]:
        """The image of each sample as the plan names it; of one asked without an image that of its other order."""
        if "image" not in store.plan.columns:
            raise ActstoreError(f"the plan of {store} has no column 'image': there is nothing to show the judge")
        plan = store.plan.unique("sample_id", keep="first", maintain_order=True)
        order = pl.col("prompt_order") if "prompt_order" in plan.columns else pl.lit(None, pl.String)
        asked = pl.col("sample_id").str.strip_suffix(pl.format("/{}", order)).fill_null(pl.col("sample_id"))
        plan = plan.select("sample_id", image=pl.coalesce("image", pl.col("image").drop_nulls().first().over(asked)))
        chosen = plan.filter(pl.col("sample_id").is_in(samples))
        bare = chosen.filter(pl.col("image").is_null())
        if bare.height:
            raise ActstoreError(
                f"sample {bare['sample_id'][0]} has no image, nor has it asked in another order ({bare.height} of "
                f"{chosen.height} have none); leave them out in SQL: from rows where image is not null"
            )
        if isinstance(chosen["image"].dtype, pl.List):
            several = chosen.filter(pl.col("image").list.len() > 1)
            if several.height:
                raise ActstoreError(
                    f"sample {several['sample_id'][0]} has several pictures, and the judge sees one; leave them out "
                    "in SQL: from rows where len(image) = 1"
                )
            chosen = chosen.with_columns(pl.col("image").list.first())
        return dict(chosen.select("sample_id", pl.col("image").cast(pl.String)).iter_rows())

    def _bytes(self, name: str, loaded: dict[str, bytes]) -> bytes:
        """The file of an image as a judge is shown it, read once."""
        from actstore_extract.pictures import PictureError, shown

        if name not in loaded:
            path = Path(self.images, name)
            if not path.is_file():
                raise ActstoreError(f"{path}: No such file or directory; name the folder of the images: --images")
            try:
                loaded[name] = shown(path)
            except PictureError as error:
                raise ActstoreError(f"{path}: {error}; leave the sample out in SQL") from None
        return loaded[name]


def _row(where: tuple[Any, ...], verdicts: list[object], deep: float) -> tuple[object, ...]:
    found = match_rate(np.array([verdict is True for verdict in verdicts]))
    counts = (found.matched, verdicts.count(None), verdicts.count("undescribed"), found.n)
    return (*where, deep, found.rate, found.low, found.high, *counts)
