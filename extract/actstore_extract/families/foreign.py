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
_ITSELF = (
    "its processor writes the image into the prompt by itself, and does not say which tokens are the image's; take a "
    "model whose prompts have a marker"
)
_NO_TOKENS = "its images are no tokens of a prompt"
_REASONS = {
    "LlavaLlamaForCausalLM": _LLAVA,
    "LlavaMistralForCausalLM": _LLAVA,
    "llava_llama": _LLAVA,
    "MultiModalityCausalLM": _JANUS,
    "multi_modality": _JANUS,
    "BlipForConditionalGeneration": f"{_NO_TOKENS}: a decoder reads them by cross-attention; take BLIP-2",
    "DiffusionGemmaForBlockDiffusion": "it writes text in blocks by diffusion, not token after token; take Gemma 4",
    "EvollaForProteinText2Text": "it reads proteins and no images",
    "FuyuForCausalLM": _ITSELF,
    "GitForCausalLM": f"{_NO_TOKENS}: their vectors are put in front of those of the prompt; take BLIP-2",
    "IdeficsForVisionText2Text": f"{_NO_TOKENS}: text reads them by cross-attention; take Idefics 2 or 3",
    "InstructBlipVideoForConditionalGeneration": "it reads videos and no images; take InstructBLIP",
    "Kosmos2ForConditionalGeneration": _ITSELF,
    "Kosmos2_5ForConditionalGeneration": _ITSELF,
    "PI0ForConditionalGeneration": "it says what a robot does, and no text",
}


def check_known(path: str, revision: str | None = None) -> None:
    """LoadError for a checkpoint of the kinds that are known not to run."""
    said, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    for name in (*(said.get("architectures") or ()), said.get("model_type")):
        if name in _REASONS:
            raise LoadError(f"{path} is a {name}: {_REASONS[name]}")
