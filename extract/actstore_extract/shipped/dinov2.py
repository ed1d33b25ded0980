"""DINOv2-small out of an ONNX graph that holds it as its backbone, as a model of Transformers."""

import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import AutoModel, BitImageProcessorPil, Dinov2Config, Dinov2Model

__all__ = ["convert", "seen"]

# Constant folding left the position embedding, of the class token and of the patches, under names of the exporter.
_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
_LAYER = re.compile(r"/backbone/encoder/layer\.(\d+)/(.*)/MatMul")
_NAMES = {"attention.attention.query": "q_proj", "attention.attention.key": "k_proj"}
_NAMES |= {"attention.attention.value": "v_proj", "attention.output.dense": "o_proj"}


def convert(file: Path, folder: Path) -> None:
    """Write the model, in float32, and the processor that its publisher has into a folder."""
    import onnx

    graph = onnx.load(str(file)).graph
    held = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    weights = {_name(name.removeprefix("backbone.")): x for name, x in held.items() if name.startswith("backbone.")}
    for node in graph.node:  # the matrices of linear maps have lost their names, and are transposed
        matrices = [one for one in node.input if one in held and held[one].ndim == 2]
        if node.op_type == "MatMul" and matrices and (found := _LAYER.search(node.name)):
            name = f"encoder.layer.{found[1]}.{found[2].replace('/', '.')}.weight"
            weights[_name(name)] = held[matrices[0]].T
    weights["embeddings.position_embeddings"] = np.concatenate([held[name] for name in _POSITIONS], 1)
    weights["embeddings.mask_token"] = np.zeros((1, 384), np.float32)  # of training alone
    config = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    model = Dinov2Model(config)
    wanted = model.state_dict().keys()
    model.load_state_dict({name: torch.tensor(x) for name, x in weights.items() if name in wanted})
    model.save_pretrained(folder)
    processor().save_pretrained(folder)


def processor() -> BitImageProcessorPil:
    """As facebook/dinov2-small has it: 224 pixels of a picture whose shorter side is 256."""
    return BitImageProcessorPil(
        size={"shortest_edge": 256},
        crop_size={"height": 224, "width": 224},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
        resample=Image.Resampling.BICUBIC,
    )


@torch.no_grad()
def seen(folder: Path) -> list[float]:
    """The first numbers of the class token's last vector for a picture of two gradients."""
    at = np.arange(256, dtype=np.uint8)
    picture = np.stack([*np.broadcast_arrays(at[:, None], at[None]), np.full((256, 256), 128, np.uint8)], -1)
    pixels = processor()(Image.fromarray(picture), return_tensors="pt").pixel_values
    model = AutoModel.from_pretrained(folder, dtype=torch.float32, trust_remote_code=False).eval()
    return [float(one) for one in model(pixels).last_hidden_state[0, 0, :5]]


def _name(name: str) -> str:
    """A name of the graph, of an older Transformers, as it is now."""
    for old, new in _NAMES.items():
        name = name.replace(old, f"attention.{new}")
    return name
