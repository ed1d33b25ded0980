"""Recipes: what to run, on which samples, and what to keep; TOML, checked before anything is loaded."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from actstore.errors import nearest
from actstore_extract.interventions.conditions import NONE, ConditionSection
from actstore_extract.interventions.knockouts import KnockoutSection
from actstore_extract.interventions.patches import PatchSection
from actstore_extract.interventions.steers import SteerSection
from actstore_extract.recipe.answers import PAPER, of_paper
from actstore_extract.recipe.sections import RecipeError, check_keys, override, read, section
from actstore_extract.recipe.shelf import shipped
from actstore_extract.recipe.toml import toml
from actstore_extract.roles import RoleError, parse_role
from actstore_extract.samples import SOURCES, Source

__all__ = ["ORDERS", "Recipe", "RecipeError", "load", "recorded", "text_of"]

ORDERS = ("image-text", "text-image", "text")
# Options of Transformers' generation that change what is most probable; the others sample, search or only report.
GENERATION = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "remove_invalid_values",
    "repetition_penalty",
    "sequence_bias",
    "suppress_tokens",
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """Which model: a folder, a name on the hub, or one that ships; `processor` changes settings of its processor.

    `gguf` is a file as Ollama and LM Studio have them, instead of `path`: dequantised to float32, once.

    Without `dtype` it runs in its checkpoint's own. With `remote_code` it runs what Python code the checkpoint brings
    along, as whoever runs the recipe.
    """

    path: str
    gguf: Annotated[str | None, Field(exclude=True)] = None  # becomes the path
    family: str | None = None
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    attention: str | None = None
    device_map: str | None = None
    blocked: list[dict[str, Any]] = []
    processor: dict[str, Any] = {}
    remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        file = given.get("gguf")
        if file is None:
            return given
        if "path" in given:
            raise ValueError("either path or gguf: both say which model")
        if not str(file).endswith(".gguf"):
            raise ValueError(f"gguf = {file!r}: it names a file that ends in .gguf")
        return {**given, "path": file, "gguf": None}


class TurnSection(_Section):
    """What was said before: by the user, "<image>" where there is one, and by the model."""

    user: str
    assistant: str


class PromptSection(_Section):
    """What is asked: "<image>" stands for the image, {column} for a column of the sample.

    `text` is one prompt, or one for each order: { image-text = "<image> {captions}", text-image = "{captions} <image>",
    text = "{captions}" }; then each sample is asked in each. {captions} is a list's items without separators,
    {captions[0]} the first of them.

    With `chat` that is what the user says last, written as the chat template has it, up to where the answer begins;
    without, text is taken as it is. In front of it are `system` and `turns`, which take columns too. `chat_template`
    is Jinja instead of the model's own, `chat_options` are what it takes, such as { enable_thinking = false }, and
    `today` is the date of a template that writes one.
    """

    text: str | dict[str, str] | None = None
    chat: bool = False
    system: str | None = None
    turns: list[TurnSection] = []
    chat_template: str | None = None
    chat_options: dict[str, Any] = {}
    today: date | None = None

    def before(self) -> Iterator[tuple[str, str]]:
        """What is said before that, where the recipe has it and in which words."""
        if self.system is not None:
            yield "[prompt] system", self.system
        for i, turn in enumerate(self.turns):
            yield f"[prompt] turns[{i}].user", turn.user
            yield f"[prompt] turns[{i}].assistant", turn.assistant

    @model_validator(mode="after")
    def _chat(self) -> Self:
        others = ("system", "turns", "chat_template", "chat_options", "today")
        for name in others if not self.chat else ():
            if getattr(self, name) not in (None, [], {}):
                raise ValueError(f"{name} is of a chat: set chat = true")
        return self

    @field_validator("text")
    @classmethod
    def _orders(cls, text: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for order in text if isinstance(text, dict) else ():
            if order not in ORDERS:
                hint = nearest(order, list(ORDERS), f"there are {', '.join(ORDERS)}")
                raise ValueError(f"no order is called '{order}'{hint}")
        if isinstance(text, dict) and not text:
            raise ValueError("no order: leave it out, or give one")
        return text


class CaptureSection(_Section):
    """What is kept of each sample.

    `roles` are those whose residual vectors are kept, `kv` those whose keys and values, in every block that the forward
    runs through for `layers`. `attention` are the roles whose attention from the text is kept, head by head with
    `per_head`, and `mass` that on every key up to the end of the image. `max_new_tokens` are generated, 0 for none, the
    most probable one by one: `generation` is "greedy" for that alone, as it is without, "checkpoint" where the model's
    generation config counts in all but sampling, or a table of such options, { repetition_penalty = 1.2 }. Of
    `answers`, words or { class = word }, the probability as next token is kept; "narrow-gate" are the words of that
    paper's code for its patching pairs, and "{column}" those of the samples themselves: each has its own, which is kept
    as its column `truth`, and the probabilities of all of them. Of `layers`, -1 is the last residual
    point; the forward ends at the last of them where `next_token` is false. `lens` keeps the model's final norm and
    unembedding beside. `thumbnails` keeps small pictures of the samples, at most so many pixels wide and high, for
    pages that show them; 0, as it is without, keeps none: whoever has the store would see them.
    """

    roles: Annotated[list[str], Field(min_length=1)]
    kv: list[str] = []
    attention: list[str] = []
    per_head: bool = False
    mass: bool = False
    max_new_tokens: Annotated[int, Field(ge=0)] = 0
    generation: Literal["greedy", "checkpoint"] | dict[str, Any] | None = None
    answers: str | list[str] | dict[str, str] = []
    layers: Literal["all"] | list[int] = "all"
    dtype: Literal["bfloat16", "float16", "float32"] | None = None
    next_token: bool = True
    lens: bool = False
    thumbnails: Annotated[int, Field(ge=0, le=1024)] = 0
    batch_size: Annotated[int, Field(ge=1)] = 16
    part_samples: Annotated[int, Field(ge=1)] | None = None

    @field_validator("answers", mode="before")
    @classmethod
    def _answers(cls, answers: object) -> object:
        if isinstance(answers, str) and "{" not in answers:
            raise ValueError(
                f'{answers!r} is neither a list of words, ["dog", "cat"], nor a table {{ class = "word" }}, '
                f'nor "{PAPER}", nor each sample\'s own, "{{column}}"'
            )
        return answers

    @field_validator("generation", mode="before")
    @classmethod
    def _generation(cls, given: object) -> object:
        if isinstance(given, dict):
            for name in given:
                if name not in GENERATION:
                    hint = nearest(name, list(GENERATION), f"there are {', '.join(GENERATION)}")
                    raise ValueError(f"no option of greedy generation is called '{name}'{hint}")
        elif given not in ("greedy", "checkpoint", None):
            raise ValueError(f'{given!r} is neither "greedy" nor "checkpoint" nor a table {{ option = value }}')
        return given

    @field_validator("roles", "kv", "attention")
    @classmethod
    def _canonical(cls, roles: list[str]) -> list[str]:
        try:
            return list(dict.fromkeys(parse_role(role).name for role in roles))
        except RoleError as error:
            raise ValueError(error) from None  # pydantic adds where

    @field_validator("kv")
    @classmethod
    def _no_means(cls, roles: list[str]) -> list[str]:
        for role in roles:
            if parse_role(role).is_mean:
                raise ValueError(f"{role} is a mean of positions, which has no keys; name the positions' role")
        return roles


class Recipe(_Section):
    """A whole recipe; `samples` is of the class that its source has; each sample is run under each condition. `check`:
    some forwards of one sample are held against each other before anything is stored.
    """

    name: str
    about: str = ""
    seed: int = 0
    check: bool = True
    model: ModelSection
    samples: Source
    prompt: PromptSection = PromptSection()
    capture: CaptureSection
    conditions: list[SerializeAsAny[ConditionSection]] = []

    def record(self) -> dict[str, Any]:
        """The recipe as JSON, as it is kept in the run card and compared on resume."""
        without = {"samples"} if self.conditions else {"samples", "conditions"}
        return {**self.model_dump(mode="json", exclude=without), "samples": self.samples.model_dump(mode="json")}


def load(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file, or the shipped one of that name, with `section.key=value` overrides applied.

    Raises RecipeError with the file, the key and the nearest key that exists.
    """
    one = shipped().get(name)
    data = read(name, list(shipped()), "actstore recipes") if one is None else deepcopy(one.data)
    for change in overrides:
        override(data, change)
    return _recipe({"name": Path(name).stem if one is None else name, **data}, name)


def made(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a dictionary of its sections, as a file has them; raises RecipeError."""
    data = {"name": "recipe", **deepcopy(dict(data))}
    for change in overrides:
        override(data, change)
    return _recipe(data, str(data["name"]))


def recorded(record: Mapping[str, Any], where: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a run card, as `Recipe.record` made it, with `section.key=value` overrides applied.

    A key that an older card lacks means what that version did: so the default of a new key is what was done before it.
    """
    data = deepcopy(dict(record))
    if isinstance(data.get("model"), dict):
        data["model"].setdefault("dtype", "bfloat16")
    if isinstance(capture := data.get("capture"), dict) and capture.get("max_new_tokens"):
        capture.setdefault("generation", "checkpoint")
    for change in overrides:
        override(data, change)
    return _recipe(data, where)


def text_of(recipe: Recipe) -> str:
    """The recipe as TOML, without what is usual; raises RecipeError for one that its file would not give again."""
    data = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"samples"})
    samples = {"source": recipe.samples.source, **recipe.samples.model_dump(mode="json", exclude_defaults=True)}
    text = toml({**data, "samples": samples})
    try:
        again = made(tomllib.loads(text)).record()
    except tomllib.TOMLDecodeError:
        again = {}
    if again != recipe.record():
        raise RecipeError(f"'{recipe.name}' has values that no TOML holds; they are in the store's run card")
    return text


def _recipe(data: Mapping[str, Any], where: str) -> Recipe:
    check_keys(data, Recipe, where)
    sections = {name: data.get(name, {}) for name in ("model", "samples", "prompt", "capture")}
    for name, one in sections.items():
        if not isinstance(one, Mapping):
            raise RecipeError(f"{where}: {name} is a section: write [{name}] and its keys below it")
    source = sections["samples"].get("source")
    if not isinstance(source, str) or source not in SOURCES:
        hint = nearest(str(source), list(SOURCES))
        raise RecipeError(f"{where}: [samples] source {source!r} is not one of {', '.join(SOURCES)}{hint}")
    if sections["capture"].get("answers") == PAPER:
        model = sections["model"]
        words = of_paper(str(data.get("name")), str(model.get("path")), model.get("family"))
        sections["capture"] = {**sections["capture"], "answers": words}
    parsed = {
        "model": section(ModelSection, sections["model"], f"{where}: [model]"),
        "samples": section(SOURCES[source], sections["samples"], f"{where}: [samples]"),
        "prompt": section(PromptSection, sections["prompt"], f"{where}: [prompt]"),
        "capture": section(CaptureSection, sections["capture"], f"{where}: [capture]"),
        "conditions": _conditions(data.get("conditions", []), where),
    }
    return section(Recipe, {**data, **parsed}, where)


def _conditions(given: object, where: str) -> list[ConditionSection]:
    """The conditions, each a table or the name of one that is ready."""
    if not isinstance(given, list):
        raise RecipeError(f'{where}: conditions is a list: conditions = ["eoi-knockout"], or [[conditions]] with keys')
    tables = [{"name": one} if isinstance(one, str) else one for one in given]
    for table in tables:
        if not isinstance(table, Mapping) or "name" not in table:
            raise RecipeError(f"{where}: condition {table!r} has no name")
    return [section(_condition(table), table, f"{where}: condition '{table['name']}'") for table in tables]


def _condition(table: Mapping[str, Any]) -> type[ConditionSection]:
    if table["name"] == NONE:
        return ConditionSection
    kinds: dict[str, type[ConditionSection]] = {"patch": PatchSection, "steer": SteerSection}
    named = (kind for key, kind in kinds.items() if key in table or str(table["name"]).endswith(f"-{key}"))
    return next(named, KnockoutSection)
