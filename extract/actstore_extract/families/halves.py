"""The two halves of a mapped model: any vision tower of patches, and any causal language model, of Transformers.

Each is a checkpoint of its own, or is taken out of a whole one that has both, such as LLaVA's or `digits-mapped`.
"""

from typing import cast

import torch
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoTokenizer,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_MAPPING

from actstore_extract.families.errors import LoadError
from actstore_extract.families.pretrained import explained, pretrained

__all__ = ["language_model", "n_prefix", "vision_tower"]

# Numbers by which some language models multiply their logits, which Llava's forward does not know.
_LOGIT_SCALES = ("logit_scale", "logits_scaling", "logits_scale")


def vision_tower(path: str, revision: str | None, dtype: object) -> tuple[PreTrainedModel, BaseImageProcessor]:
    """The tower in a folder or of that name, with its image processor; of CLIP's kind the half that sees."""
    with explained(path):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        images = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            path, revision=revision, trust_remote_code=False
        )
        if _is_whole(config):
            tower = pretrained(AutoModelForImageTextToText, path, revision=revision, dtype=dtype).model.vision_tower
        else:
            kind = type(getattr(config, "vision_config", config))
            if kind not in MODEL_MAPPING:
                raise LoadError(f"{path}: {kind.__name__} is no vision tower that Transformers loads")
            tower = pretrained(MODEL_MAPPING[kind], path, revision=revision, dtype=dtype)
    if not isinstance(getattr(tower.config, "patch_size", None), int):
        raise LoadError(f"{path}: {type(tower).__name__} has no patches of one size")
    return cast(PreTrainedModel, tower), images


def language_model(
    path: str, revision: str | None, **options: object
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The causal language model in a folder or of that name, with its tokenizer."""
    with explained(path):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        if _is_whole(config):
            model = _taken_out(pretrained(AutoModelForImageTextToText, path, revision=revision, **options))
        else:
            model = pretrained(AutoModelForCausalLM, path, revision=revision, **options)
        words = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=False)
    for name in _LOGIT_SCALES:
        if getattr(model.config, name, 1.0) not in (None, 1.0):
            raise LoadError(f"{path} multiplies its logits ({name}), which the forward of a mapped model does not")
    return model, words


@torch.no_grad()
def n_prefix(tower: PreTrainedModel) -> int:
    """How many vectors the tower puts before those of the patches: 1, a class token, or 0; LoadError for others."""
    size = tower.config.image_size
    blank = torch.zeros(1, 3, size, size, dtype=tower.dtype, device=tower.device)
    found = tower(blank).last_hidden_state.shape[1] - (size // tower.config.patch_size) ** 2
    if found not in (0, 1):
        raise LoadError(f"{type(tower).__name__} has {found} vectors besides its patches, not 0 or 1 (a class token)")
    return int(found)


def _is_whole(config: PreTrainedConfig) -> bool:
    """Whether a checkpoint has both halves."""
    return hasattr(config, "vision_config") and type(config) in AutoModelForImageTextToText._model_mapping


def _taken_out(whole: PreTrainedModel) -> PreTrainedModel:
    """The language model of a model that has both halves, with its head."""
    with torch.device("meta"):  # every part of it is exchanged
        model = AutoModelForCausalLM.from_config(whole.config.get_text_config())  # type: ignore[no-untyped-call]
    setattr(model, model.base_model_prefix, whole.get_decoder())  # type: ignore[no-untyped-call]
    model.set_output_embeddings(whole.get_output_embeddings())  # type: ignore[no-untyped-call]
    model.generation_config = whole.generation_config
    return cast(PreTrainedModel, model)
