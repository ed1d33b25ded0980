"""Settings of a processor's images: which there are, those that a recipe changes, and those in force."""

from collections.abc import Mapping
from typing import Any, cast

from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from transformers import PreTrainedTokenizerBase
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs, ProcessorMixin

from actstore.errors import nearest
from actstore_extract.families.errors import LoadError

__all__ = ["change", "in_force"]

# What is there for tensors, for the class of a processor and for what is written beside it, and not for pictures.
_OTHERS = {
    "data_format",
    "device",
    "disable_grouping",
    "image_processor_type",
    "input_data_format",
    "processor_class",
    "return_row_col_info",
    "return_tensors",
}
_BLANK = 64  # pixels


def change(processor: ProcessorMixin | PreTrainedTokenizerBase, settings: Mapping[str, object]) -> dict[str, object]:
    """Change settings of the processor's image processor, for what reads them there, and give those that a call of the
    processor takes as it takes them: there they come before what the class of the processor has itself.

    LoadError for one that it does not have, or leaves without a value, and for a value that it does not take.
    """
    images = getattr(processor, "image_processor", None)
    known = sorted(_values(images))
    for name in settings:
        if name not in known:
            hint = nearest(name, known, f"it has {', '.join(known)}")
            raise LoadError(f"the image processor has no setting '{name}'{hint}")
    if not settings or images is None:
        return {}
    taken = _sized(images, settings)
    called = {name: value for name, value in taken.items() if name in _kinds(images)}
    try:
        images([Image.new("RGB", (_BLANK, _BLANK))], return_tensors="pt", **called)
    except (AttributeError, KeyError, StrictDataclassError, TypeError, ValueError) as error:
        said = " ".join(str(error).split())
        raise LoadError(f"the image processor does not take {dict(settings)}: {said}") from error
    for name, value in taken.items():
        is_size = isinstance(getattr(images, name, None), SizeDict) and isinstance(value, dict)
        setattr(images, name, SizeDict(**cast(dict[str, Any], value)) if is_size else value)
    return called


def _sized(images: Any, settings: Mapping[str, object]) -> dict[str, object]:
    """The settings, with min_pixels and max_pixels as the edges of a size, where that is what they are by now."""
    edges = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
    given = {edges[name]: value for name, value in settings.items() if name in edges}
    others = {name: value for name, value in settings.items() if name not in edges}
    size = _plain(others.get("size", images.size))
    if not given or not isinstance(size, dict) or set(size) != set(edges.values()):
        return dict(settings)
    return {**others, "size": {**size, **given}}


def in_force(processor: ProcessorMixin | PreTrainedTokenizerBase, settings: Mapping[str, object]) -> dict[str, object]:
    """What decides how pictures are prepared, in words of JSON: what the image processor says of itself, what the class
    of the processor has instead, and what a recipe changed."""
    images = getattr(processor, "image_processor", None)
    own = getattr(processor, "images_kwargs", None) or {}
    found = _values(images)
    found |= {name: value for name, value in {**own, **settings}.items() if name not in _OTHERS}
    return {name: _plain(value) for name, value in sorted(found.items())}


def _values(images: Any) -> dict[str, object]:
    """The settings of an image processor that have a value, or are its own kind's and may have one."""
    if images is None:
        return {}
    names = {name for name in {*vars(images), *_kinds(images)} if not name.startswith("_")} - _OTHERS
    of_all = set(ImagesKwargs.__annotations__)
    values = {name: getattr(images, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None or name not in of_all}


def _kinds(images: Any) -> set[str]:
    """Names that a call takes."""
    return set(getattr(getattr(images, "valid_kwargs", None), "__annotations__", ()))


def _plain(value: object) -> Any:
    if isinstance(value, Mapping | SizeDict):
        return {name: _plain(one) for name, one in dict(value).items() if one is not None}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)
