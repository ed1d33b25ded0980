"""The models that the papers are about: what they are called, and which stores are of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from actstore.errors import ActstoreError, nearest

__all__ = ["MODELS", "Known", "key", "name_of", "of_run"]


class Known(NamedTuple):
    """A model as its paper writes it, its number of blocks and its width, and its names on the hub."""

    name: str
    layers: int
    width: int
    ids: tuple[str, ...] = ()


MODELS = {
    "chameleon-7b": Known("Chameleon-7B", 32, 4096, ("facebook/chameleon-7b",)),
    "chameleon-34b": Known("Chameleon-34B", 48, 8192, ("facebook/chameleon-30b",)),
    "emu3": Known("Emu3", 32, 4096, ("BAAI/Emu3-Gen-hf",)),
    "llava-onevision-7b": Known("LLaVA-OneVision", 28, 3584, ("llava-hf/llava-onevision-qwen2-7b-ov-hf",)),
    "pixtral-12b": Known("Pixtral-12B", 40, 5120, ("mistral-community/pixtral-12b",)),
    "janus-1.3b": Known("Janus-1.3B", 24, 2048, ("deepseek-ai/Janus-1.3B",)),
    "clip-gemma-2-2b": Known("CLIP-Gemma-2-2B-it", 26, 2304),
}
_BY_ID = {one.lower(): name for name, known in MODELS.items() for one in known.ids}
_BY_NAME = {known.name.lower(): name for name, known in MODELS.items()}


def key(model: str) -> str:
    """The key of a model that is asked for by its key, its name in the paper, or its name on the hub.

    Raises ActstoreError for a model of which no paper has anything.

    >>> key("facebook/chameleon-30b"), key("Emu3"), key("emu3-gen-hf")
    ('chameleon-34b', 'emu3', 'emu3')
    """
    wanted = model.lower()
    bare = {one.rpartition("/")[2]: name for one, name in _BY_ID.items()}
    for names in (dict.fromkeys(MODELS), _BY_ID, _BY_NAME, bare):
        if wanted in names:
            return names[wanted] or wanted
    raise ActstoreError(
        f"neither paper is about '{model}', only about {', '.join(MODELS)}{nearest(wanted, list(MODELS))}"
    )


def name_of(model: str) -> str:
    """A model as the paper writes it; raises ActstoreError as `key`."""
    return MODELS[key(model)].name


def of_run(run: Mapping[str, Any]) -> str | None:
    """The key of the model that a run card is of, None where it is none of the papers'.

    By its name on the hub (a card with a revision is of a model from there); of a folder, by the recipe that it ran
    with (MODEL/...), if it is as deep and as wide as that model: what a folder is called says nothing.

    >>> of_run({"model": "facebook/chameleon-30b"})
    'chameleon-34b'
    >>> card = {"model": "/data/mine", "recipe_name": "emu3/vqa", "n_layers": 32, "d_model": 4096}
    >>> of_run(card), of_run({**card, "n_layers": 4}), of_run({"model": "/data/chameleon-7b", "n_layers": 32})
    ('emu3', None, None)
    """
    if (named := _BY_ID.get(str(run.get("model")).lower())) is not None:
        return named
    if run.get("revision"):
        return None
    asked = str(run.get("recipe_name") or "").partition("/")[0]
    known = MODELS.get(asked)
    same = known is not None and (run.get("n_layers"), run.get("d_model")) == (known.layers, known.width)
    return asked if same else None
