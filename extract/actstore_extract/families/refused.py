"""Image-text models of Transformers that no run here would be right for, and why."""

__all__ = ["REFUSED"]

_ITSELF = "its processor writes the image into the prompt by itself, and does not say where"
_NO_TOKENS = "its images are no tokens of a prompt"

# Class -> what is so of it.
REFUSED = {
    "BlipForConditionalGeneration": f"{_NO_TOKENS}: a decoder reads them by cross-attention",
    "DiffusionGemmaForBlockDiffusion": "it writes whole blocks of text by diffusion, not token after token",
    "EvollaForProteinText2Text": "it reads proteins and no images",
    "FuyuForCausalLM": _ITSELF,
    "GitForCausalLM": f"{_NO_TOKENS}: their vectors are put in front of those of the prompt",
    "IdeficsForVisionText2Text": f"{_NO_TOKENS}: text reads them by cross-attention",
    "InstructBlipVideoForConditionalGeneration": "it reads videos and no images",
    "Kosmos2ForConditionalGeneration": _ITSELF,
    "Kosmos2_5ForConditionalGeneration": _ITSELF,
    "PI0ForConditionalGeneration": "it says what a robot does, and no text",
}
