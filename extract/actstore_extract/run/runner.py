"""The runner: creates a store from a recipe or goes on with it, until every batch of the plan is committed."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from actstore.errors import ActstoreError, AlreadyCommittedError
from actstore.format.commits import Commit
from actstore.format.lens import Lens
from actstore.format.plan import prepare
from actstore.progress import Bar, bar
from actstore.store import Store
from actstore.write import drafts
from actstore_extract.check.found import Found
from actstore_extract.families import Model, load, own_dtype, rules_of
from actstore_extract.forward.generation import GREEDY, Way, in_force
from actstore_extract.interventions.blocks import always_blocked
from actstore_extract.interventions.conditions import Condition, crossed, expand
from actstore_extract.recipe.answers import check_answers, names_of
from actstore_extract.recipe.asked import asked
from actstore_extract.recipe.recipe import Recipe, RecipeError
from actstore_extract.roles import RULES
from actstore_extract.run import thumbnails
from actstore_extract.run.card import made_on
from actstore_extract.run.checking import checked
from actstore_extract.run.content import Content, samples_per_part
from actstore_extract.run.encoder import NO_PROMPT, chat_of
from actstore_extract.run.extractor import BATCHES_ENCODED, Extractor
from actstore_extract.run.fingerprint import decoder_weights, fingerprint
from actstore_extract.run.lens import lens_of
from actstore_extract.run.notes import missing, notes
from actstore_extract.run.places import Place, place
from actstore_extract.run.ranks import Share, device_of, share_of
from actstore_extract.run.resume import check_same, check_samples, recipe_of
from actstore_extract.run.said import tokens_of
from actstore_extract.run.settings import settings
from actstore_extract.run.signals import terminated
from actstore_extract.samples import Samples
from actstore_extract.shipped import located, origin

__all__ = ["Run", "Summary"]

PARTS_WAITING = 2  # parts the writer may be behind; more would only hold more memory
BATCHES_PROBED = 8


@dataclass(frozen=True)
class Summary:
    """What a run did: samples written now, of them failed, and the batches that are left to other writers."""

    samples: int
    failed: int
    parts: int
    bytes: int
    seconds: float
    left: int


class Run:
    """A recipe with its samples, and with its model once something is to be run."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        device: str = "auto",
        batch_size: int | None = None,
        share: Share | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.recipe, self.say, self.device, self.batch_size = recipe, say, device, batch_size
        self.share = share or share_of()
        self.samples: Samples = recipe.samples.samples()
        for note in self.samples.notes:
            say(note)
        self.asked = asked(recipe, self.samples)
        if (without := self.asked.filter(pl.col("prompt").is_null())).height:
            first = without["sample_id"][0]
            say(f"{without.height} of {self.asked.height} samples fail, {first} the first: {NO_PROMPT}")
        self.folder = located(recipe.model.path, say)
        if recipe.model.remote_code:
            say(f"{recipe.model.path}: Python code that this checkpoint brings along runs here, as its recipe says")
        self.there: Mapping[str, Any] | None = None  # the run card of the store that this run goes on with
        self._found: dict[bool, Found] = {}

    @cached_property
    def computed(self) -> str:
        """The number type that the model runs in: what the recipe says, or the checkpoint's own."""
        section = self.recipe.model
        return section.dtype or own_dtype(self.folder, section.revision, remote_code=section.remote_code)

    @property
    def generates(self) -> bool:
        """Whether texts are generated."""
        return self.recipe.capture.max_new_tokens > 0

    @cached_property
    def generation(self) -> Way:
        """What decides them: what the recipe says, or nothing but what is most probable."""
        return self.recipe.capture.generation or GREEDY

    @property
    def dtype(self) -> str:
        """The number type of the vectors that are kept."""
        return self.recipe.capture.dtype or self.computed

    @property
    def attention_dtype(self) -> str:
        """That of attention, which bfloat16 would round too much."""
        return "float32" if self.dtype == "float32" else "float16"

    def record(self) -> dict[str, Any]:
        """The recipe as it is kept in the run card and compared on resume, with nothing left open."""
        record = self.recipe.record()
        found = {**record, "model": {**record["model"], "dtype": self.computed}}
        return found | ({"capture": {**record["capture"], "generation": self.generation}} if self.generates else {})

    @cached_property
    def model(self) -> Model:
        """The model, loaded when something is to be run."""
        section = self.recipe.model
        model = load(
            self.folder,
            family=section.family,
            dtype=self.computed,
            device=device_of(self.device, section.device_map),
            revision=section.revision,
            device_map=section.device_map,
            attention=section.attention,
            settings=section.processor,
            remote_code=section.remote_code,
        )
        self.chat_end(model)
        return always_blocked(model, section.blocked)

    def chat_end(self, model: Model) -> str:
        """What the chat template writes behind every prompt; ChatError for a model that cannot be asked so."""
        chat = chat_of(self.recipe.prompt)
        return "" if chat is None else chat.end(model)

    @cached_property
    def prints(self) -> dict[str, Any]:
        """What the model is, to be held against a run card: hashes of files, settings, the rules of its roles."""
        path, section = self.folder, self.recipe.model
        generation = self.generation if self.generates else None
        found = settings(path, section.revision, generation=generation, code=section.remote_code)
        rules = rules_of(path, section.family, section.revision, remote_code=section.remote_code)
        return {**fingerprint(path, section.revision), "settings": found, RULES: rules}

    @cached_property
    def conditions(self) -> dict[str, Condition]:
        """The conditions by name; windows of layers are known once the model is."""
        return expand(self.recipe.conditions, n_layers=self.model.n_layers, seed=self.recipe.seed)

    @cached_property
    def planned(self) -> pl.DataFrame:
        """Each sample under each condition."""
        batch_size = self.batch_size or self.recipe.capture.batch_size
        return crossed(self.asked, self.conditions.values(), block=BATCHES_ENCODED * batch_size)

    @cached_property
    def layers(self) -> list[int]:
        """The residual points to keep."""
        wanted = self.recipe.capture.layers
        if wanted == "all":
            return list(range(self.model.n_layers + 1))
        n_points = self.model.n_layers + 1
        for layer in wanted:
            if not -n_points <= layer < n_points:
                raise RecipeError(f"[capture] layer {layer} is out of range: this model has 0..{n_points - 1}")
        return sorted({layer % n_points for layer in wanted})

    @cached_property
    def blocks(self) -> list[int]:
        """The blocks whose keys and values are kept: all that the forward runs through for the residual points."""
        if not self.recipe.capture.kv:
            return []
        if self.layers[-1] == 0:
            raise RecipeError("[capture] kv: no block runs for layer 0 alone; add a later layer")
        return list(range(self.layers[-1]))

    @cached_property
    def answers(self) -> list[int]:
        """The tokens that stand for the answers of the recipe: those of the run card that this run goes on with.

        A card without them is of a version that took the words as they are without a prompt.
        """
        answers = self.recipe.capture.answers
        if self.there is None:
            return tokens_of(self.model, answers, self.asked, self.chat_end(self.model), self.say)
        if there := self.there.get("answer_tokens", {}):
            return [there[name] for name in names_of(answers, self.asked)]
        return tokens_of(self.model, answers, None, "", self.say)

    def found(self, batch_size: int) -> Found:
        """What the self-check finds, or found when the store was made, for samples alone or several in a forward."""
        together = batch_size > 1
        if together not in self._found:
            what = (self.model, self.recipe, self.asked, self.samples)
            self._found[together] = checked(*what, batch_size=batch_size, there=self.there, say=self.say)
        return self._found[together]

    def extractor(self, batch_size: int) -> Extractor:
        """What turns samples into the content of a part."""
        self.model.batching = self.found(batch_size).batches
        return Extractor(
            self.model,
            self.recipe,
            self.samples.image,
            layers=self.layers,
            kv_blocks=self.blocks,
            dtype=self.dtype,
            batch_size=batch_size,
            asked=self.asked,
            answers=self.answers,
            generation=self.generation,
            say=self.say,
        )

    def extract(self, path: Path | str) -> Summary:
        """Create the store at `path` or URL, or go on with it; returns when nothing is left for this process to do.

        Of several that run it, each takes its share first, then what others have left.
        Raises PlanError if the store there was made from another recipe or other weights.
        """
        where = place(path)
        store = self._open(where)
        before = store.run["recipe"]["capture"]["batch_size"]
        own = self.recipe.capture.batch_size
        batch_size = self.batch_size or (own if own != before else int(store.run["batch_size"]))
        started = time.monotonic()
        with terminated():
            commits = self._take(store, self.share.own, batch_size)
            commits += self._take(store, self.share.others, batch_size) if self.share.of > 1 else []
        left = len(store.remaining)
        if not left:
            where.finish(wrote=bool(commits))
        if not left and self.recipe.capture.thumbnails:
            where.share(thumbnails.keep(where.open(), self.samples, self.recipe.capture.thumbnails, self.say))
        return Summary(
            samples=sum(commit.samples for commit in commits),
            failed=sum(int(commit.by["failed"]) for commit in commits),
            parts=len(commits),
            bytes=sum(commit.bytes for commit in commits),
            seconds=time.monotonic() - started,
            left=left,
        )

    def _take(self, store: Store, batches: Callable[[Sequence[int]], list[int]], batch_size: int) -> list[Commit]:
        """Extract `batches` of what remains, again until the rest of them is in the hands of other writers."""
        total = store.plan.filter(pl.col("batch").is_in(batches(store.remaining))).height
        whose = "" if self.share.of == 1 else f", {self.share}" if batches == self.share.own else " by other shares"
        self.say(f"{total} of {store.plan.height} samples left{whose}")
        commits: list[Commit] = []
        with bar(total, "samples") as progress:
            while todo := self._free(store, batches):
                commits += self._work(store, self.extractor(batch_size), todo, progress)
        return commits

    def _free(self, store: Store, batches: Callable[[Sequence[int]], list[int]]) -> list[int]:
        """Those batches that nobody has committed and nobody is working on."""
        return [number for number in batches(store.remaining) if number not in drafts.live(store.path)]

    def _work(self, store: Store, extractor: Extractor, todo: list[int], progress: Bar) -> list[Commit]:
        """Extract batch after batch while a thread writes the ones before; what it was given is always finished."""
        writing: deque[Future[Commit | None]] = deque()
        commits: list[Commit | None] = []
        with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer:
            for number, following in zip(todo, [*todo[1:], -1], strict=True):
                planned = store.plan.filter(pl.col("batch") == number)
                if store.is_committed(number) or number in drafts.live(store.path):
                    progress.advance(planned.height)
                    continue
                draft = store.draft(number)
                try:
                    then = store.plan.filter(pl.col("batch") == following)
                    content = extractor.content(planned, progress.advance, then=then)
                except BaseException:
                    draft.discard()
                    raise
                writing.append(writer.submit(self._write, store, number, content, draft, extractor.batch_size))
                while len(writing) > PARTS_WAITING:
                    commits.append(writing.popleft().result())
            commits += [future.result() for future in writing]
        return [commit for commit in commits if commit is not None]

    def _write(
        self, store: Store, number: int, content: Content, draft: drafts.Draft, batch_size: int
    ) -> Commit | None:
        with draft:  # also what nobody expects lets go of it
            failed = content.samples.filter(pl.col("status") == "failed")
            for sample_id, error in failed.select("sample_id", "error").iter_rows():
                self.say(f"{sample_id} failed: {error}")
            by = {"batch_size": batch_size, "failed": failed.height, **made_on(self.model.device)}
            try:
                return store.write(
                    number,
                    samples=content.samples,
                    rows=content.rows,
                    residual=content.residual,
                    keys=content.keys,
                    values=content.values,
                    attention=content.attention,
                    attention_dtype=self.attention_dtype,
                    by=by,
                    draft=draft,
                )
            except AlreadyCommittedError:
                return None

    def _open(self, where: Place) -> Store:
        if not where.is_there:
            return self._create(where)
        store = where.open()
        self.there = store.run
        if made_by := recipe_of(store):  # what the recipe leaves open stays as it was
            if self.recipe.model.dtype is None:
                self.computed = made_by.model.dtype or self.computed
            if self.recipe.capture.generation is None:
                self.generation = made_by.capture.generation or self.generation
        check_same(store, self.record(), self.prints)
        check_samples(store, self.asked)
        return store

    def _create(self, where: Place) -> Store:
        batch_size = self.batch_size or self.recipe.capture.batch_size
        try:
            where.check_free()  # before the model runs
        except ActstoreError:
            if not where.is_there:  # else another rank was first
                raise
        prepare(self.asked)  # refuses bad columns before the model runs
        check_answers(self.recipe.capture.answers, self.asked, limited=self.recipe.samples.limit is not None)
        if self.recipe.model.dtype is None:
            self.say(f"{self.recipe.model.path} runs in {self.computed}, as its checkpoint is; --dtype says another")
        for note in notes(self.model, self.asked, self.recipe.prompt, self.generation if self.generates else None):
            self.say(note)
        content = self.probe(batch_size)
        for what in missing(self.recipe.capture, content):
            self.say(f"{what}: {self.model.facts()['architecture']} has none here; nothing is stored for it")
        lens = self.lens(content, batch_size)
        size = self.recipe.capture.part_samples or samples_per_part(content, batch_size, self.planned.height)
        batch = pl.int_range(self.planned.height, eager=True) // size
        try:
            return where.create(
                plan=self.planned.with_columns(batch.alias("batch")),
                layers=self.layers,
                blocks=self.blocks,
                d_model=self.model.d_model,
                dtype=self.dtype,
                run=self.card(batch_size),
                vocabulary=self.model.vocabulary(),
                lens=lens,
                pictures=self.planned.schema["image"] == pl.List(pl.String),
                image_from=self.model.inject,
            )
        except ActstoreError:
            if where.is_there:  # another rank was first
                return self._open(where)
            raise

    def lens(self, content: Content, batch_size: int) -> Lens | None:
        """The model's lens, where the recipe wants it, held against what the model says after one of the samples."""
        if not self.recipe.capture.lens:
            return None
        sample_id = content.samples.filter(pl.col("status") == "ok")["sample_id"][0]
        row = self.asked.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
        encoded = self.extractor(batch_size).encoder.encode(row)
        assert not isinstance(encoded, str)
        return lens_of(self.model, encoded, self.dtype)

    def probe(self, batch_size: int) -> Content:
        """The content of the first samples that can be run."""
        planned = self.planned.head(BATCHES_PROBED * batch_size)
        extractor = self.extractor(batch_size)
        first = None
        for piece in planned.iter_slices(batch_size):
            content = extractor.content(piece)
            first = first or content.samples["error"][0]
            if content.residual or content.keys:
                return content
            if (content.samples["status"] == "ok").any():
                roles = ", ".join(self.recipe.capture.roles)
                raise RecipeError(f"none of the roles {roles} exists in {self.model.facts()['architecture']}")
        raise RecipeError(f"none of the first {planned.height} samples can be run; the first: {first}")

    def card(self, batch_size: int) -> dict[str, Any]:
        """The run card: everything that says who produced the store."""
        return {
            "model": self.recipe.model.path,
            **origin(self.recipe.model.path),
            **self.model.facts(),
            **self.prints,
            "decoder_sha256": decoder_weights(self.folder),
            "recipe_name": self.recipe.name,
            "seed": self.recipe.seed,
            "batch_size": batch_size,
            **made_on(self.model.device),
            "check": self.found(batch_size).card(),
            "conditions": {name: condition.card() for name, condition in self.conditions.items()},
            "recipe": self.record(),
            **({"chat_end": end} if (end := self.chat_end(self.model)) else {}),
            **self._answers(),
            **self._generation(),
        }

    def _answers(self) -> dict[str, Any]:
        """The tokens that stand for the answers of the recipe, by class or word."""
        names = names_of(self.recipe.capture.answers, self.asked)
        return {"answer_tokens": dict(zip(names, self.answers, strict=True))} if names else {}

    def _generation(self) -> dict[str, Any]:
        """The options under which texts are generated, where they are."""
        return {"generation": in_force(self.model, self.generation)} if self.generates else {}
