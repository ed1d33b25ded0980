"""Recipes: what to run, on which samples, and what to keep; TOML, checked before anything is loaded."""

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, field_validator, model_validator

from actstore.errors import nearest
from actstore.format.given import suffix_of
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
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class ModelSection(_Section):
    """Which model runs, and how it is loaded."""

    path: Annotated[str, Field(examples=["facebook/chameleon-7b"])]
    """The model: a folder, a name on the Hugging Face hub, or one that ships, such as digits-fusion."""
    gguf: Annotated[str | None, Field(exclude=True, examples=["model.gguf"])] = None  # becomes the path
    """Instead of path: a file of Ollama or LM Studio, dequantised to float32 once."""
    family: Annotated[str | None, Field(examples=["chameleon"])] = None
    """Whose rules find the image tokens of its prompts; without it those of its architecture."""
    revision: Annotated[str | None, Field(examples=["main"])] = None
    """The branch, tag or commit of a model on the hub."""
    dtype: Annotated[Literal["bfloat16", "float16", "float32"] | None, Field(examples=["bfloat16"])] = None
    """Number type of its weights and of its computation; without it that of its checkpoint."""
    attention: Annotated[str | None, Field(examples=["eager"])] = None
    """The attention kernel, as Transformers calls it (attn_implementation); without it Transformers chooses."""
    device_map: Annotated[str | None, Field(examples=["auto"])] = None
    """"auto" spreads a model that is larger than one GPU over all of them."""
    blocked: Annotated[list[dict[str, Any]], Field(examples=[[{"queries": "text", "keys": "image"}]])] = []
    """Attention that this model never has, under no condition: the queries give no weight to the keys."""
    processor: Annotated[dict[str, Any], Field(examples=[{"max_patches": 4}])] = {}
    """Settings of its image processor that are to be others, such as into how many tiles a picture is cut."""
    remote_code: bool = False
    """Run the Python code that a checkpoint brings along, with the rights of whoever runs the recipe: read it
    before."""

    @model_validator(mode="before")
    @classmethod
    def _of_a_file(cls, given: dict[str, Any]) -> dict[str, Any]:
        file = given.get("gguf")
        if file is None:
            return given
        if "path" in given:
            raise ValueError("either path or gguf: both say which model")
        if suffix_of(str(file)) != ".gguf":
            raise ValueError(f"gguf = {file!r}: it names a file that ends in .gguf")
        return {**given, "path": file, "gguf": None}


class TurnSection(_Section):
    """One exchange that comes before the question, in a chat."""

    user: Annotated[str, Field(examples=["<image> Is this an animal?"])]
    """What the user said; "<image>" stands for a picture."""
    assistant: Annotated[str, Field(examples=["Yes."])]
    """What the model answered."""


class PromptSection(_Section):
    """What each sample is asked."""

    text: Annotated[str | dict[str, str] | None, Field(examples=["<image> This {label} is a"])] = None
    """The prompt: "<image>" stands for the picture, {column} for the sample's value in a column, {captions} for all
    items of a list and {captions[0]} for its first. A table { image-text = "<image> {captions}", text-image =
    "{captions} <image>" } asks each sample once in each order. Without it the column prompt is taken."""
    chat: bool = False
    """Write the prompt as the model's chat template does, as the user's last words, up to where the answer begins."""
    system: Annotated[str | None, Field(examples=["Answer in one word."])] = None
    """The system's words in front of a chat."""
    turns: Annotated[list[TurnSection], Field(examples=[[{"user": "Is a dog an animal?", "assistant": "Yes."}]])] = []
    """Exchanges in front of the question of a chat."""
    chat_template: Annotated[str | None, Field(examples=["{{ messages[-1].content }}"])] = None
    """A template in Jinja instead of the model's own."""
    chat_options: Annotated[dict[str, Any], Field(examples=[{"enable_thinking": False}])] = {}
    """What the chat template takes beside the messages."""
    today: Annotated[date | None, Field(examples=["2026-01-31"])] = None
    """The date of a chat template that writes one, so that two runs are the same."""

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
    """What is kept of each sample: vectors, attention, what the model says."""

    roles: Annotated[list[str], Field(min_length=1, examples=[["eoi", "last-image", "image-mean", "last"]])]
    """The token positions whose residual vectors are kept, by name (actstore roles lists the names)."""
    kv: Annotated[list[str], Field(examples=[["prefix"]])] = []
    """Positions whose keys and values are kept, in every block up to the last of layers."""
    attention: Annotated[list[str], Field(examples=[["eoi", "last-image"]])] = []
    """Positions whose attention from the text is kept, by layer and by query token, in the mean over heads."""
    per_head: bool = False
    """Keep that attention of each head, not the mean."""
    mass: bool = False
    """Keep how much attention the text gives each position up to the end of the image, which actstore attention
    reads."""
    max_new_tokens: Annotated[int, Field(ge=0, examples=[20])] = 0
    """How many tokens the model goes on with; their text is kept. 0 for none."""
    generation: Annotated[
        Literal["greedy", "checkpoint"] | dict[str, Any] | None, Field(examples=[{"repetition_penalty": 1.2}])
    ] = None
    """How it goes on. "greedy", as without it: the most probable token each time. "checkpoint": that, with the
    penalties of the checkpoint's generation_config.json. A table: that, with these options."""
    answers: Annotated[str | list[str] | dict[str, str], Field(examples=[["dog", "cat"]])] = []
    """Words whose probability as the next token is kept: a list, a table class = word, "{column}" for each sample's own
    (kept as the column truth), or "narrow-gate", the words of that paper's code for its patching pairs."""
    layers: Annotated[Literal["all"] | list[int], Field(examples=[[0, 16, -1]])] = "all"
    """Which points of the residual stream are kept: N is what enters block N, the last, or -1, what leaves the last
    block. Where next_token = false the forward ends at the last of them."""
    dtype: Annotated[Literal["bfloat16", "float16", "float32"] | None, Field(examples=["float16"])] = None
    """Number type of the vectors in the store; without it that in which the model runs."""
    next_token: bool = True
    """Keep the ten most probable next tokens and their probabilities."""
    lens: bool = False
    """Keep the model's final norm and unembedding beside the vectors, which actstore lens reads."""
    thumbnails: Annotated[int, Field(ge=0, le=1024, examples=[96])] = 0
    """Keep small pictures of the samples, at most so many pixels wide and high, for pages that show them: whoever has
    the store sees them. 0 for none."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """How many samples share a forward."""
    part_samples: Annotated[int | None, Field(ge=1, examples=[64])] = None
    """How many samples are written together, and lost together by a crash; without it about 128 MB of them."""

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
    """A whole recipe: a model, samples, what they are asked, what is kept, and under which conditions."""

    name: Annotated[str, Field(examples=["mine"])]
    """How the recipe is called in the store."""
    about: Annotated[str, Field(examples=["Cats and dogs, one prompt"])] = ""
    """A line for readers."""
    seed: int = 0
    """Decides the random roles, such as random-image-10."""
    check: bool = True
    """Check the model first on one sample, by forwards that should agree; a model that fails is refused."""
    model: ModelSection
    samples: Source
    prompt: PromptSection = PromptSection()
    capture: CaptureSection
    conditions: Annotated[list[SerializeAsAny[ConditionSection]], Field(examples=[["none", "eoi-knockout"]])] = []
    """Interventions under which each sample is run once more, beside the model as it is: names of knockouts that are
    ready, or tables."""

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
