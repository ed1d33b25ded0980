"""The folders a trained model is shipped in: all that `from_pretrained` needs, in half precision."""

from pathlib import Path

from transformers import (
    ChameleonForConditionalGeneration,
    ChameleonImageProcessorPil,
    ChameleonProcessor,
    CLIPImageProcessorPil,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

__all__ = ["image_processor", "ship_fusion", "ship_mapped"]

# Pictures of another size are shrunk and cropped; 0..255 becomes -1..1 (the processors subtract the mean last).
SIZE, CROP = {"shortest_edge": 8}, {"height": 8, "width": 8}
PATCH = 2  # pixels; the class token beside the patches is counted apart
RESCALE, ONES = 1 / 127.5, [1.0, 1.0, 1.0]


def ship_fusion(folder: Path, model: ChameleonForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a fusion model."""
    image_processor = ChameleonImageProcessorPil(
        size=SIZE, crop_size=CROP, rescale_factor=RESCALE, image_mean=ONES, image_std=ONES
    )
    save(folder, model, ChameleonProcessor(image_processor, tokenizer, image_seq_length=16))


def ship_mapped(folder: Path, model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save a mapped model."""
    processor = LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor(),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy=model.config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
    )
    save(folder, model, processor)


def image_processor() -> CLIPImageProcessorPil:
    """What the vision tower of a mapped model sees of a picture."""
    return CLIPImageProcessorPil(size=SIZE, crop_size=CROP, rescale_factor=RESCALE, image_mean=ONES, image_std=ONES)


def save(folder: Path, model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Write model and processor."""
    model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
    processor.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # saved for the owner alone, but shipped to everybody
