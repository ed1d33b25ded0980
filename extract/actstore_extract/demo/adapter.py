"""The mapped model: a linear adapter from CLIP patches into the frozen language model."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from transformers import CLIPModel, Gemma2ForCausalLM, LlavaConfig, LlavaForConditionalGeneration

from actstore_extract.demo.batch import padded
from actstore_extract.demo.corpus import Corpus
from actstore_extract.demo.optimise import optimise, scaled

__all__ = ["AdapterRecipe", "adapter_weights", "assemble", "train_adapter"]

N_IMAGE = 16
FEATURE_LAYER = -2  # what the last layer makes of patches was never read in CLIP's training


@dataclass(frozen=True)
class AdapterRecipe:
    """Sentences after `<s> image :`, with loss on the sentences."""

    steps: int = 600
    learning_rate: float = 7e-3
    batch: int = 64
    sentences: tuple[int, int] = (1, 3)
    digit_first: float = 0.6


def assemble(clip: CLIPModel, language_model: Gemma2ForCausalLM, ids: dict[str, int]) -> LlavaForConditionalGeneration:
    """Both parts in one model, with an adapter that is still as it was drawn."""
    config = LlavaConfig(
        vision_config=clip.config.vision_config,
        text_config=language_model.config,
        image_token_index=ids["<image>"],
        image_seq_length=N_IMAGE,
        projector_hidden_act="linear",  # two linear maps with nothing between them are one
        vision_feature_select_strategy="default",
        vision_feature_layer=FEATURE_LAYER,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.vision_model.state_dict())
    model.model.language_model.load_state_dict(language_model.model.state_dict())
    model.tie_weights()
    return model.requires_grad_(False)


def adapter_weights(model: LlavaForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The adapter's tensors under the names they have in the model, in half precision."""
    return {
        name: tensor.to(torch.float16, copy=True)
        for name, tensor in model.state_dict().items()
        if "multi_modal_projector" in name
    }


def train_adapter(
    recipe: AdapterRecipe,
    model: LlavaForConditionalGeneration,
    data: Corpus,
    ids: dict[str, int],
    *,
    rng: np.random.Generator,
    steps_scale: float,
) -> None:
    """Fit the adapter, and nothing else."""
    adapter = model.model.multi_modal_projector.requires_grad_(True)
    features = patches(model, data.images)
    embed = model.get_input_embeddings()
    bos = embed(torch.full((recipe.batch, 1), ids["<s>"]))

    def loss_at(_: int) -> torch.Tensor:
        drawn = rng.integers(len(features), size=recipe.batch)
        said = [data.captions.text(int(i), rng, sizes=recipe.sentences, digit_first=recipe.digit_first) for i in drawn]
        tokens, targets = padded([[ids[":"], *text, ids["</s>"]] for text in said], pad=ids["<pad>"])
        inputs = torch.cat([bos, adapter(features[drawn]), embed(tokens)], dim=1)
        states = model.model.language_model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        logits = model.lm_head(states[:, 1 + N_IMAGE :])
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    optimise(
        "adapter",
        adapter.parameters(),
        loss_at,
        steps=scaled(recipe.steps, steps_scale),
        learning_rate=recipe.learning_rate,
        weight_decay=0.0,
    )


@torch.no_grad()
def patches(model: LlavaForConditionalGeneration, images: torch.Tensor) -> torch.Tensor:
    """What the adapter reads of images (n, 3, 8, 8), the class token left out: (n, 16, 64)."""
    tower = model.model.vision_tower
    batches = [tower(batch, output_hidden_states=True).hidden_states for batch in torch.split(images, 1024)]
    return torch.cat([states[FEATURE_LAYER][:, 1:] for states in batches])
