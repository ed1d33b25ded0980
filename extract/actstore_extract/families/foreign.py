"""Checkpoints that cannot be run, told by what their configuration says, with what can be taken in their place."""

from transformers import PretrainedConfig

from actstore_extract.families.errors import LoadError

__all__ = ["check_known"]

_LLAVA = (
    "it is in the form of LLaVA's own code, which Transformers does not load: take its weights in that of "
    "Transformers, llava-hf/llava-1.5-7b-hf (LLaVA's first release, whose weights are differences to LLaMA's, has none)"
)
_JANUS = (
    "it is in the form of Janus's own code, which Transformers does not load: take deepseek-community/Janus-Pro-1B or "
    "deepseek-community/Janus-Pro-7B, or convert it by convert_janus_weights_to_hf.py of Transformers' repository"
)
_QUERIES = (
    "its processor puts the image in front of every text itself, so that no <image> of a prompt says where it is; "
    "take a model whose prompts do"
)
_REASONS = {
    "LlavaLlamaForCausalLM": _LLAVA,
    "LlavaMistralForCausalLM": _LLAVA,
    "llava_llama": _LLAVA,
    "MultiModalityCausalLM": _JANUS,
    "multi_modality": _JANUS,
    "Blip2ForConditionalGeneration": _QUERIES,
    "InstructBlipForConditionalGeneration": _QUERIES,
    "InstructBlipVideoForConditionalGeneration": _QUERIES,
}


def check_known(path: str, revision: str | None = None) -> None:
    """LoadError for a checkpoint of the kinds that are known not to run."""
    said, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    for name in (*(said.get("architectures") or ()), said.get("model_type")):
        if name in _REASONS:
            raise LoadError(f"{path} is a {name}: {_REASONS[name]}")
