"""Running again: the model, the recipe and the samples that made a store, at hand once more."""

from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from actstore.errors import ActstoreError
from actstore.format import commits, plan
from actstore.format.commits import Commit
from actstore.format.header import Header
from actstore.format.names import PLAN
from actstore.write import batch
from actstore.write.batch import Batch
from actstore_extract.again.asked import asked
from actstore_extract.families.pretrained import explained
from actstore_extract.families.remote import refusal
from actstore_extract.roles import RULES
from actstore_extract.run.card import flat, made_on
from actstore_extract.run.extractor import NOT_RUN, Extractor
from actstore_extract.run.runner import Run
from actstore_extract.run.settings import changed

__all__ = ["Rerun"]


class Rerun:
    """The run that made a store, to be run again on samples of its plan; the store need not open.

    Raises ActstoreError where the run card has no recipe, or the model or the samples are not at hand, or the weights
    are other ones and `other_weights` does not ask for that; `overrides` (section.key=value) say where they are now.
    `changed` is in what else the model differs from that of the run card: then and now, by name.
    """

    def __init__(
        self,
        path: Path,
        *,
        device: str = "auto",
        overrides: Sequence[str] = (),
        other_weights: bool = False,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path, self.header = path, Header.load(path)
        recipe, refused = asked(path, self.header, overrides)
        self.plan = plan.load(self.header.checked(path, PLAN))
        self.run = Run(recipe, device=device, say=say)
        if refused:
            raise ActstoreError(refusal(self.run.folder))
        self.run.there = self.header.run
        with explained(self.run.folder):
            self.changed = changed(self.header.run, self.run.prints)
        if RULES in self.changed:
            then, now = self.changed[RULES]
            raise ActstoreError(
                f"{self.path} was made when the roles of such samples were found by other rules ({then} in its run "
                f"card, {now} here): run again they would be other tokens; use the version that made it"
            )
        then, now = self.changed.get("weights_sha256", (None, None))
        if now is not None and not other_weights:
            raise ActstoreError(
                f"{self.path} was made with other weights than those in {self.run.folder}: weights_sha256 "
                f"{str(then)[:12]} in its run card, {str(now)[:12]} here; say where its model is: --set "
                "model.path=FOLDER (recompute --other-weights compares it all the same)"
            )

    @cached_property
    def _extractors(self) -> dict[int, Extractor]:
        return {}

    def batch_size(self, number: int) -> int:
        """The samples in one forward when a batch of the plan was extracted."""
        return int(self.made_by(number)["batch_size"])

    def made_by(self, number: int) -> dict[str, Any]:
        """Batch size, device and versions with which a batch was extracted; where it is lost, those of the run card."""
        own, _ = commits.readable(self.path, self.header.crc32c, self._names & {commits.name_of(number)})
        found = {name: self.header.run.get(name) for name in ("batch_size", "device", "versions")}
        for commit in [*own, *self._repairs]:
            if number in commit.batches:
                found |= commit.by
        return found

    @cached_property
    def _names(self) -> set[str]:
        return set(commits.names(self.path))

    @cached_property
    def _repairs(self) -> list[Commit]:
        """What was repaired before, in order; other compactions do not say how their samples were run."""
        names = sorted(name for name in self._names if name.startswith("c"))
        read, _ = commits.readable(self.path, self.header.crc32c, names)
        return [commit for commit in read if "versions" in commit.by]

    def made(
        self,
        planned: pl.DataFrame,
        batch_size: int,
        *,
        only: Collection[tuple[str, str]] | None = None,
        advance: Callable[[int], None] = lambda _: None,
    ) -> Batch:
        """Samples of one batch of the plan, run again, in the form of the store.

        With `only`, these (sample, condition) and what ran with them; the forwards have the same samples as at first.
        """
        if batch_size not in self._extractors:
            self._extractors[batch_size] = self.run.extractor(batch_size)
        content = self._extractors[batch_size].content(planned, advance, only=only)
        run = (content.samples["error"] != NOT_RUN).fill_null(value=True)
        return batch.check(
            self.header,
            planned.filter(run),
            content.samples.filter(run),
            content.rows,
            {"residual": content.residual, "keys": content.keys, "values": content.values},
            {name: array[:, run.to_numpy()] for name, array in content.attention.items()},
            self.run.attention_dtype,
        )

    def differing(self, number: int, batch_size: int) -> dict[str, tuple[object, object]]:
        """In what this run differs from that of a batch: then and now, by name."""
        card, then = self.header.run, self.made_by(number)
        now = {"batch_size": batch_size, **made_on(self.run.model.device)}
        found = {name.replace("_", " "): (then[name], now[name]) for name in ("batch_size", "device")}
        found |= {"attention": (card.get("attention"), self.run.model.facts()["attention"]), **self.changed}
        found |= {name: ((then["versions"] or {}).get(name), value) for name, value in now["versions"].items()}
        recipe, mine = flat(card["recipe"]), flat(self.run.record())
        own = {key for key in recipe if not key.endswith(".path")} - {"model.attention"}
        found |= {f"recipe {key}": (recipe[key], mine.get(key)) for key in sorted(own)}
        return {name: pair for name, pair in found.items() if pair[0] != pair[1]}
