"""Greedy generation: what the model says after its prompts."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from logging import ERROR
from typing import cast

import torch
from transformers import GenerationConfig, StoppingCriteria, StoppingCriteriaList
from transformers.utils import logging

from actstore.errors import ActstoreError
from actstore_extract.families import Batch, Encoded, Model

__all__ = ["GREEDY", "GenerationError", "Way", "first_logits", "generate", "in_force", "not_followed", "together"]

# "greedy": nothing but the checkpoint's end tokens counts; "checkpoint": its generation config in all but sampling;
# a table: these options of Transformers, over "greedy".
Way = str | Mapping[str, object]
GREEDY = "greedy"

# What of a generation config Transformers reads off the slots of a prompt, padding among them, and when it is off.
_COUNT_PADDING = {
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "forced_bos_token_id": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
}

# What of a generation config decides no token.
_REMARKS = (
    "_from_model_config",
    "bos_token_id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "transformers_version",
)


class GenerationError(ActstoreError):
    """This batch cannot be continued."""


@torch.no_grad()
def generate(
    model: Model, batch: Batch, *, max_new_tokens: int, stop: Sequence[str] = (), way: Way = GREEDY
) -> list[str]:
    """What the model says after each prompt of a batch padded on the left, most probable token by token.

    The text ends at `max_new_tokens`, at the model's own end token or in front of the first of the `stop` texts; it
    holds no special tokens. `way` says what else decides, and the image token is never said. What always holds for
    the model does in every step; attention blocks do inside `block_attention`.
    GenerationError for a batch padded on the right, for one padded at all where an option counts padding, as no
    batch of `together` is, and for options that Transformers cannot follow here.
    """
    if any(int(batch.offset[i]) + layout.length != batch.n_slots for i, layout in enumerate(batch.layouts)):
        raise GenerationError("generation continues the end of each row: collate the batch with left=True")
    if batch.offset.any() and (counting := _counting_padding(model, way)):
        raise GenerationError(
            f"{' and '.join(counting)} of {_whose(way)} would count what fills up shorter prompts: collate prompts of "
            "one length"
        )
    if max_new_tokens < 1:
        raise GenerationError(f"max_new_tokens {max_new_tokens}: at least one token is wanted")
    # Position ids are left to Transformers, which goes on counting from the attention mask.
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"}
    with model.held(batch), _quiet(), _explained(way), _following(model, way):
        tokens = model.module.generate(
            **inputs,
            **_greedy(model, way),
            max_new_tokens=max_new_tokens,
            stopping_criteria=StoppingCriteriaList([_Stop(model, batch.n_slots, stop)] if stop else []),
        )
    return [_cut(text, stop) for text in _texts(model, tokens[:, batch.n_slots :])]


@torch.no_grad()
def first_logits(model: Model, batch: Batch) -> torch.Tensor:
    """Logits (samples, vocabulary) of the first token that plain greedy generation says after each prompt of a batch
    padded on the left."""
    inputs = {name: tensor for name, tensor in batch.inputs.items() if name != "position_ids"}
    options = _greedy(model, GREEDY) | {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 1}
    with model.held(batch), _quiet(), _explained(GREEDY), _following(model, GREEDY):
        return cast(torch.Tensor, model.module.generate(**inputs, **options).logits[0])


def together(model: Model, encoded: Sequence[Encoded], way: Way = GREEDY) -> list[list[int]]:
    """Indices of samples that one call of `generate` takes: all, or those of one length where padding would count."""
    if not _counting_padding(model, way):
        return [list(range(len(encoded)))]
    same: dict[int, list[int]] = defaultdict(list)
    for i, sample in enumerate(encoded):
        same[sample.length].append(i)
    return list(same.values())


def in_force(model: Model, way: Way = GREEDY) -> dict[str, object]:
    """The options under which the model generates, by their names in Transformers, as a run card says them; those that
    are off are left out."""
    off = GenerationConfig._get_default_generation_params()
    values = {**_config(model, way).to_diff_dict(), **_greedy(model, way)}
    return {
        name: value
        for name, value in values.items()
        if name not in _REMARKS and value is not None and value != off.get(name)
    }


def not_followed(model: Model, way: Way) -> list[str]:
    """Options of the checkpoint's generation config that do not count, where another would expect them to."""
    ours, theirs = in_force(model, way), in_force(model, "checkpoint")
    names = [f"{name} = {value}" for name, value in theirs.items() if ours.get(name) != value]
    remedy = 'generation = "checkpoint" in [capture] follows it'
    return [f"not followed of the model's generation config: {', '.join(names)}; {remedy}"] if names else []


def _config(model: Model, way: Way) -> GenerationConfig:
    own: GenerationConfig = model.module.generation_config
    if way == "checkpoint":
        return deepcopy(own)
    options = {"eos_token_id": own.eos_token_id, **({} if isinstance(way, str) else way)}
    return GenerationConfig(**options)  # type: ignore[no-untyped-call]


def _counting_padding(model: Model, way: Way) -> list[str]:
    config = _config(model, way)
    return [name for name, off in _COUNT_PADDING.items() if getattr(config, name, None) not in (None, off)]


def _greedy(model: Model, way: Way) -> dict[str, object]:
    """What no generation config decides: None would leave it to that."""
    options: dict[str, object] = {
        "do_sample": False,
        "num_beams": 1,
        "num_return_sequences": 1,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 50,
        "use_cache": True,
        "cache_implementation": "dynamic",  # blocks count slots by the cache's length, which a static one does not tell
        "pad_token_id": model.pad_token_id,
        "return_dict_in_generate": False,
    }
    if model.image_token_id is not None:  # with no image behind it, it is a word that no reader can use
        options["suppress_tokens"] = sorted({model.image_token_id, *(_config(model, way).suppress_tokens or ())})
    return options


@contextmanager
def _following(model: Model, way: Way) -> Iterator[None]:
    """The model's generation config is that of the way: what `generate` is not given it takes from there."""
    own = model.module.generation_config
    model.module.generation_config = _config(model, way)
    try:
        yield
    finally:
        model.module.generation_config = own


@contextmanager
def _quiet() -> Iterator[None]:
    """No remarks of Transformers on options that its own models pass on, once per batch."""
    level = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


@contextmanager
def _explained(way: Way) -> Iterator[None]:
    """What Transformers raises for options of generation, in one line."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise GenerationError(
            f"Transformers cannot generate by {_whose(way)}: {' '.join(str(error).split())}; "
            + ('take generation = "greedy"' if way == "checkpoint" else "take the option out")
            + ", or set max_new_tokens = 0"
        ) from error


def _whose(way: Way) -> str:
    return "this model's generation config" if way == "checkpoint" else "[capture] generation"


def _texts(model: Model, tokens: torch.Tensor) -> list[str]:
    return [str(text) for text in model.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text in front of the first stop.

    >>> _cut("four dogs. A cat", [".", "dogs"])
    'four '
    """
    found = [at for at in map(text.find, stop) if at >= 0]
    return text[: min(found)] if found else text


class _Stop(StoppingCriteria):
    """Samples are done when their text holds one of the stops."""

    def __init__(self, model: Model, n_slots: int, stop: Sequence[str]) -> None:
        self.model, self.n_slots, self.stop = model, n_slots, stop

    def __call__(self, input_ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:  # noqa: ARG002
        texts = _texts(self.model, input_ids[:, self.n_slots :])
        return torch.tensor([any(stop in text for stop in self.stop) for text in texts], device=input_ids.device)
