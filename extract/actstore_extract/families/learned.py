"""Learned vectors of a model that stand among its image tokens: what separates them, and queries in their place."""

import re

from torch import nn
from transformers import PreTrainedModel

__all__ = ["queries", "separators"]

# Names of parameters that are no separators, whatever their width: norms, scales, gates, what a vision tower puts in.
_OTHERS = re.compile(r".*(weight|bias|scale)|class_embedding|cls_\w+|probe|query|gamma|beta|(lambda|alpha|gate)\w*")
_QUERIES = re.compile(r"(^|\.)(latents|quer(y|ies)|query_tokens|query_\d+_resolution\.weight)$")


def separators(module: PreTrainedModel, blocks: nn.Module, d_model: int) -> frozenset[str]:
    """Names of the single vectors of the residual stream's width, outside the decoder's blocks, that a model puts among
    the image's tokens under the image's token id: `image_newline`, `view_separator`."""
    own = {id(weight) for weight in blocks.parameters()}
    names = (
        name.rpartition(".")[2]
        for name, weight in module.named_parameters()
        if weight.shape == (d_model,) and id(weight) not in own
    )
    return frozenset(name for name in names if not _OTHERS.fullmatch(name))


def queries(module: PreTrainedModel) -> bool:
    """Whether image tokens are learned queries that gathered what patches say, so that their order is no grid."""
    return any(_QUERIES.search(name) for name, _ in module.named_parameters())
