"""Recipes of trainings: which parts of which models learn, from what, how; TOML like those of extraction."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from actstore.errors import nearest
from actstore_extract.recipe.sections import RecipeError, check_keys, override, read, section
from actstore_extract.samples import SOURCES, Source
from actstore_extract.training.conversations import Conversations

__all__ = [
    "AdapterModel",
    "AdapterRecipe",
    "DataSection",
    "FactsSection",
    "LoraModel",
    "LoraRecipe",
    "LoraSection",
    "Shipped",
    "TrainingRecipe",
    "TrainingSection",
    "load",
    "recorded",
    "shipped",
]

LISTED_BY = "actstore train recipes"
_SOURCES: dict[str, type[Source]] = {**SOURCES, "llava": Conversations}
_MAY_CHANGE = {"checkpoint_every", "micro_batch", "skip_bad"}  # when a training goes on
_SAID = ("prompt", "answer", "chat_template")  # of a set of examples, beside the keys of its source
Dtype = Literal["bfloat16", "float32"]  # the gradients of float16 would vanish


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AdapterModel(_Section):
    """A frozen vision tower and a frozen language model: folders, names on the hub with `@revision` if wanted, or
    `digits-mapped`, which has both. `adapter` is the output of a training to start from, `image_token` a token that no
    text has, `feature_layer` the hidden states of the tower that the adapter reads, `chat_template` Jinja instead of
    the tokenizer's own. `processor` changes settings of the tower's image processor, and the mean of each `pool` x
    `pool` patches is one image token. `ridge` begins with the ridge regression from what the tower sees to the vectors
    of the answers' words; its penalty is that part of the features' mean variance. `inject` is the layer at which the
    image comes in: behind so many blocks, which see the text alone. `blocked` is attention that the model has to learn
    without, as recipes of extraction say it."""

    vision: str
    language: str
    adapter: Path | None = None
    image_token: str = "<unused0>"  # noqa: S105
    feature_layer: int = -1
    processor: dict[str, Any] = {}
    pool: Annotated[int, Field(ge=1)] = 1
    ridge: Annotated[float, Field(gt=0)] | None = None
    inject: Annotated[int, Field(ge=0)] = 0
    blocked: list[dict[str, Any]] = []
    dtype: Dtype = "bfloat16"
    chat_template: str | None = None


class LoraModel(_Section):
    """A whole model, as recipes of extraction name it; `blocked` is attention that it has to learn without."""

    path: str
    family: str | None = None
    revision: str | None = None
    dtype: Dtype = "bfloat16"
    blocked: list[dict[str, Any]] = []
    processor: dict[str, Any] = {}
    chat_template: str | None = None


class LoraSection(_Section):
    """LoRA's rank and alpha, and the linear maps of every block that it changes."""

    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    targets: Annotated[list[str], Field(min_length=1)] = ["q_proj", "k_proj", "v_proj", "o_proj"]


class DataSection(_Section):
    """Samples, and what is said of each. Conversations (source "llava") have that; of other sources `prompt` and
    `answer` are texts with {columns}; "<image>" in the answer makes the model draw it. `chat_template` is that of the
    model unless given."""

    samples: SerializeAsAny[Source]
    prompt: str | None = None
    answer: str | None = None
    chat_template: str | None = None


class TrainingSection(_Section):
    """How long and how fast: `batch_size` examples make a step, `micro_batch` of them a forward on each device.

    `warm_up` is a part of all steps; then a cosine falls to `final_learning_rate`. `max_length` counts tokens of text,
    not those of the image. `skip_bad` leaves out examples that cannot be used instead of refusing them.
    """

    batch_size: Annotated[int, Field(ge=1)]
    learning_rate: Annotated[float, Field(gt=0)]
    max_length: Annotated[int, Field(ge=2)]
    epochs: Annotated[int, Field(ge=1)] = 1
    micro_batch: Annotated[int, Field(ge=1)] = 8
    final_learning_rate: Annotated[float, Field(ge=0)] = 1e-8
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    checkpoint_every: Annotated[int, Field(ge=1)] = 100
    skip_bad: bool = False


class FactsSection(_Section):
    """Sizes of the published models, from which costs are estimated: all `parameters` and those `learned`; of the
    language model `layers`, `width` and `vocabulary`; tokens of an image."""

    parameters: float
    learned: float
    layers: int
    width: int
    vocabulary: int
    image_tokens: int


class TrainingRecipe(_Section):
    """What recipes of both kinds have."""

    name: str
    about: str = ""
    kind: str
    seed: int = 0
    data: Annotated[dict[str, DataSection], Field(min_length=1)]
    training: TrainingSection
    facts: FactsSection | None = None

    def record(self) -> dict[str, Any]:
        """What decides what is learned, as JSON: kept beside the weights and compared on resume."""
        record = self.model_dump(mode="json", exclude={"name", "about", "facts"})
        record["training"] = {k: v for k, v in record["training"].items() if k not in _MAY_CHANGE}
        return record


class AdapterRecipe(TrainingRecipe):
    """One linear map between two frozen models."""

    kind: Literal["adapter"]
    model: AdapterModel


class LoraRecipe(TrainingRecipe):
    """LoRA in one model."""

    kind: Literal["lora"]
    model: LoraModel
    lora: LoraSection = LoraSection()


_KINDS: dict[str, type[TrainingRecipe]] = {"adapter": AdapterRecipe, "lora": LoraRecipe}
_MODELS: dict[str, type[BaseModel]] = {"adapter": AdapterModel, "lora": LoraModel}


class Shipped(_Section):
    """A recipe that ships, as its file has it."""

    data: dict[str, Any]
    text: str


@cache
def shipped() -> dict[str, Shipped]:
    """Recipes by name.

    >>> [name for name in shipped() if name.endswith("adapter")]
    ['digits-adapter', 'openmoji-adapter']
    """
    folder = Path(str(files("actstore_extract") / "recipes" / "training"))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.toml"))}
    return {name: Shipped(data=tomllib.loads(text), text=text) for name, text in texts.items()}


Kind = TypeVar("Kind", bound=TrainingRecipe)


def load(name: str, kind: type[Kind], overrides: Sequence[str] = ()) -> Kind:
    """The recipe in a file, or the shipped one of that name, with `section.key=value` overrides applied.

    Raises RecipeError with the file, the key and the nearest key that exists, or if it is not of the `kind`.
    """
    one = shipped().get(name)
    data = read(name, list(shipped()), LISTED_BY) if one is None else one.model_copy(deep=True).data
    for change in overrides:
        override(data, change, depth=2)
    made = _recipe({"name": Path(name).stem if one is None else name, **data}, name)
    if not isinstance(made, kind):
        raise RecipeError(f"{name} is a recipe for: actstore train {made.kind}")
    return made


def recorded(record: Mapping[str, Any], where: str) -> TrainingRecipe:
    """The recipe that `TrainingRecipe.record` made, whatever else is beside it; a key that an older one lacks means
    what that version did, which is the key's default."""
    sections = {key: record[key] for key in ("kind", "seed", "model", "training", "lora") if key in record}
    sets = {
        name: {**one["samples"], **{key: one[key] for key in _SAID if one.get(key) is not None}}
        for name, one in record["data"].items()
    }
    return _recipe({"name": where, **sections, "data": sets}, where)


def _recipe(data: Mapping[str, Any], where: str) -> TrainingRecipe:
    kind = data.get("kind")
    if kind not in _KINDS:
        raise RecipeError(f"{where}: kind {kind!r} is not one of {', '.join(_KINDS)}{nearest(str(kind), list(_KINDS))}")
    check_keys(data, _KINDS[kind], where)
    sections: dict[str, type[BaseModel]] = {"model": _MODELS[kind], "training": TrainingSection}
    others: dict[str, type[BaseModel]] = {"lora": LoraSection, "facts": FactsSection}
    sections |= {name: others[name] for name in others if name in data}
    parsed: dict[str, BaseModel] = {
        name: section(sections[name], _table(data, name, where), f"{where}: [{name}]") for name in sections
    }
    sets = _table(data, "data", where)
    named = {name: _data(_table(sets, name, where, "data."), f"{where}: [data.{name}]") for name in sets}
    return section(_KINDS[kind], {**data, **parsed, "data": named}, where)


def _table(data: Mapping[str, Any], name: str, where: str, before: str = "") -> Mapping[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, Mapping):
        raise RecipeError(f"{where}: {before}{name} is a section: write [{before}{name}] and its keys below it")
    return table


def _data(table: Mapping[str, Any], where: str) -> DataSection:
    """One set of examples: a source of samples, and what is said of them."""
    source = table.get("source")
    if source not in _SOURCES:
        hint = nearest(str(source), list(_SOURCES))
        raise RecipeError(f"{where} source {source!r} is not one of {', '.join(_SOURCES)}{hint}")
    own = {name: table[name] for name in _SAID if name in table}
    samples = section(_SOURCES[source], {name: value for name, value in table.items() if name not in own}, where)
    spoken = _SOURCES[source] is Conversations
    for name in ("prompt", "answer"):
        if (name in own) == spoken:
            raise RecipeError(
                f"{where} {name}: conversations have their own" if spoken else f'{where}: no {name}; set {name} = "..."'
            )
    return section(DataSection, {**own, "samples": samples}, where)
