"""The adapter in closed form: what the tower sees, mapped as near as one linear map can to the words of the answers."""

from typing import Any, cast

import torch
from accelerate.utils import broadcast
from torch import nn

from actstore.progress import bar
from actstore_extract.families import SampleError
from actstore_extract.families.clip_gemma import ClipGemmaModel
from actstore_extract.pictures import PictureError
from actstore_extract.training.data import Data
from actstore_extract.training.examples import Example
from actstore_extract.training.loop import Learner

__all__ = ["begin"]


@torch.no_grad()
def begin(learner: Learner, data: Data, penalty: float) -> None:
    """Set the adapter to the ridge regression from every patch of a picture to the mean of its answers' word vectors.

    The penalty is `penalty` times the features' mean variance. What cannot be used is left to the training to refuse.
    """
    module = cast(ClipGemmaModel, learner.model.module)
    projector = cast(Any, module.model.multi_modal_projector)
    linear: nn.Linear = projector.adapter.linear
    sums = _Sums(linear.in_features, linear.out_features)
    features: list[torch.Tensor] = []
    hook = projector.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    try:
        with bar(len(data), "pictures") as progress:
            for number in range(len(data)):
                example = _example(learner, data, number)
                if example is not None and example.spans:
                    batch = learner.model.collate([example.encoded])
                    module.model.get_image_features(batch.inputs["pixel_values"])
                    (seen,) = projector.adapter.pooled(features.pop())
                    sums.add(seen.double().cpu(), _words(module, example).double().cpu())
                progress.advance()
    finally:
        hook.remove()
    weight, bias = sums.solved(penalty)
    for own, found in ((linear.weight, weight), (linear.bias, bias)):
        own.copy_(broadcast(found.to(own)))


def _example(learner: Learner, data: Data, number: int) -> Example | None:
    said, template = data.conversation(number)
    try:
        return learner.encode(said, data.image(number), template)
    except (PictureError, SampleError):
        return None


def _words(module: ClipGemmaModel, example: Example) -> torch.Tensor:
    """The mean (d,) of the vectors of all answers' words as block 0 receives them."""
    tokens = torch.from_numpy(example.encoded.layout.token_ids)
    said = torch.cat([tokens[start:stop] for start, stop in example.spans])
    words: torch.Tensor = module.get_input_embeddings()(said.to(module.device))
    return words.mean(0)


class _Sums:
    """Of features (patches, d_vision), each with the same target (d_model,): what a regression needs, in float64."""

    def __init__(self, d_vision: int, d_model: int) -> None:
        self.n = 0
        self.x = torch.zeros(d_vision, dtype=torch.float64)
        self.y = torch.zeros(d_model, dtype=torch.float64)
        self.xx = torch.zeros(d_vision, d_vision, dtype=torch.float64)
        self.xy = torch.zeros(d_vision, d_model, dtype=torch.float64)

    def add(self, features: torch.Tensor, target: torch.Tensor) -> None:
        """Another picture."""
        self.n += len(features)
        self.x += features.sum(0)
        self.y += len(features) * target
        self.xx += features.T @ features
        self.xy += features.sum(0)[:, None] * target

    def solved(self, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Weight (d_model, d_vision) and bias (d_model,)."""
        x, y = self.x / max(self.n, 1), self.y / max(self.n, 1)
        covariance = self.xx / max(self.n, 1) - torch.outer(x, x)
        ridge = penalty * covariance.diagonal().mean() * torch.eye(len(x), dtype=torch.float64)
        weight = torch.linalg.solve(covariance + ridge, self.xy / max(self.n, 1) - torch.outer(x, y)).T
        return weight, y - weight @ x
