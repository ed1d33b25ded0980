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
    "SECTIONS",
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
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class AdapterModel(_Section):
    """A frozen vision tower and a frozen language model, between which the adapter is learned."""

    vision: Annotated[str, Field(examples=["openai/clip-vit-large-patch14-336"])]
    """The tower: a folder, a name on the hub (with @revision, if wanted), or digits-mapped, which has both."""
    language: Annotated[str, Field(examples=["google/gemma-2-2b-it"])]
    """The language model, named likewise."""
    adapter: Annotated[Path | None, Field(examples=["runs/pretrain"])] = None
    """The output of a training to start from; without it the map is drawn by seed."""
    image_token: Annotated[str, Field(examples=["<image>"])] = "<unused0>"  # noqa: S105
    """A token of the language model that no text has: it becomes the place of the image."""
    feature_layer: Annotated[int, Field(examples=[-2])] = -1
    """Which hidden states of the tower the adapter reads; -1 is the last."""
    processor: Annotated[dict[str, Any], Field(examples=[{"size": {"height": 224, "width": 224}}])] = {}
    """Settings of the tower's image processor that are to be others."""
    pool: Annotated[int, Field(ge=1, examples=[2])] = 1
    """The mean of each pool x pool patches is one image token."""
    ridge: Annotated[float | None, Field(gt=0, examples=[0.1])] = None
    """Begin with the ridge regression from what the tower sees to the vectors of the answers' words; its penalty is
    this part of the features' mean variance."""
    inject: Annotated[int, Field(ge=0, examples=[4])] = 0
    """The layer at which the image comes in: behind so many blocks, which see the text alone."""
    blocked: Annotated[list[dict[str, Any]], Field(examples=[[{"queries": ["text"], "keys": ["eoi"]}]])] = []
    """Attention that the model has to learn without: the queries give no weight to the keys."""
    dtype: Annotated[Dtype, Field(examples=["float32"])] = "bfloat16"
    """Number type of the frozen weights; what is learned is in float32."""
    chat_template: Annotated[str | None, Field(examples=["{{ messages[-1].content }}"])] = None
    """A template in Jinja instead of the tokenizer's own."""


class LoraModel(_Section):
    """A whole model, in which LoRA is learned."""

    path: Annotated[str, Field(examples=["BAAI/Emu3-Gen-hf"])]
    """The model: a folder, a name on the hub, or one that ships."""
    family: Annotated[str | None, Field(examples=["chameleon"])] = None
    """Whose rules find the image tokens of its prompts; without it those of its architecture."""
    revision: Annotated[str | None, Field(examples=["main"])] = None
    """The branch, tag or commit of a model on the hub."""
    dtype: Annotated[Dtype, Field(examples=["float32"])] = "bfloat16"
    """Number type of the frozen weights; what is learned is in float32."""
    blocked: Annotated[list[dict[str, Any]], Field(examples=[[{"queries": ["text"], "keys": ["eoi"]}]])] = []
    """Attention that the model has to learn without: the queries give no weight to the keys."""
    processor: Annotated[dict[str, Any], Field(examples=[{"max_pixels": 65536}])] = {}
    """Settings of its image processor that are to be others."""
    chat_template: Annotated[str | None, Field(examples=["{{ messages[-1].content }}"])] = None
    """A template in Jinja instead of the model's own."""


class LoraSection(_Section):
    """How much LoRA changes, and where."""

    rank: Annotated[int, Field(ge=1, examples=[64])] = 16
    """Rank of each change."""
    alpha: Annotated[float, Field(gt=0, examples=[64.0])] = 32
    """What changes are multiplied by, times 1 / rank."""
    dropout: Annotated[float, Field(ge=0, lt=1, examples=[0.05])] = 0.0
    """The share of inputs that is left out at random."""
    targets: Annotated[list[str], Field(min_length=1, examples=[["q_proj", "v_proj"]])] = [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
    ]
    """The linear maps of every block that it changes."""


class DataSection(_Section):
    """Samples, by the keys of their source, and what is said of each; several sets are several tables [data.NAME]."""

    samples: SerializeAsAny[Source]
    prompt: Annotated[str | None, Field(examples=["<image>: this digit is a"])] = None
    """What is asked, with {columns} of the sample; conversations (source = "llava") have their own."""
    answer: Annotated[str | None, Field(examples=[" {label} ."])] = None
    """What is to be answered, with {columns}; "<image>" makes a model draw that can."""
    chat_template: Annotated[str | None, Field(examples=["{{ messages[-1].content }}"])] = None
    """A template in Jinja for these samples; without it that of the model."""


class TrainingSection(_Section):
    """How long and how fast."""

    batch_size: Annotated[int, Field(ge=1, examples=[128])]
    """Examples that make a step, over all devices."""
    learning_rate: Annotated[float, Field(gt=0, examples=[0.001])]
    """Its largest value, at the end of the warm-up."""
    max_length: Annotated[int, Field(ge=2, examples=[2048])]
    """The most tokens of text that an example may have; those of the image are not counted."""
    epochs: Annotated[int, Field(ge=1, examples=[6])] = 1
    """How often each example is seen."""
    micro_batch: Annotated[int, Field(ge=1, examples=[4])] = 8
    """Examples of a step in one forward on each device: memory, not the result, depends on it."""
    final_learning_rate: Annotated[float, Field(ge=0, examples=[0.0])] = 1e-8
    """What a cosine falls to, from the end of the warm-up to the last step."""
    warm_up: Annotated[float, Field(ge=0, lt=1, examples=[0.03])] = 0.0
    """The share of all steps in which the learning rate rises from 0."""
    betas: Annotated[tuple[float, float], Field(examples=[[0.9, 0.98]])] = (0.9, 0.999)
    """Adam's two."""
    weight_decay: Annotated[float, Field(ge=0, examples=[0.0])] = 0.01
    """AdamW's."""
    checkpoint_every: Annotated[int, Field(ge=1, examples=[500])] = 100
    """Steps from one checkpoint to the next; a training that is stopped goes on from the last."""
    skip_bad: bool = False
    """Leave out examples that cannot be used, instead of refusing them."""


class FactsSection(_Section):
    """Sizes of the published models, from which `actstore train recipes` estimates costs."""

    parameters: Annotated[float, Field(examples=[8.5e9])]
    """All of them."""
    learned: Annotated[float, Field(examples=[1.7e8])]
    """Those that are learned."""
    layers: Annotated[int, Field(examples=[32])]
    """Blocks of the language model."""
    width: Annotated[int, Field(examples=[4096])]
    """Dimensions of its residual stream."""
    vocabulary: Annotated[int, Field(examples=[184622])]
    """Its tokens."""
    image_tokens: Annotated[int, Field(examples=[1024])]
    """Tokens of an image."""


class TrainingRecipe(_Section):
    """A whole training: what is learned, from which examples, how."""

    name: Annotated[str, Field(examples=["mine"])]
    """How the recipe is called."""
    about: Annotated[str, Field(examples=["A map from CLIP into Gemma-2"])] = ""
    """A line for readers."""
    kind: Annotated[str, Field(examples=["adapter"])]
    """What is learned: "adapter" or "lora"."""
    seed: Annotated[int, Field(examples=[475])] = 0
    """Decides the order of the examples and what is drawn at the start."""
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


SECTIONS: dict[str, type[BaseModel]] = {
    "top": TrainingRecipe,
    "model of an adapter": AdapterModel,
    "model of lora": LoraModel,
    "lora": LoraSection,
    "data.NAME": DataSection,
    "training": TrainingSection,
    "facts": FactsSection,
}
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
