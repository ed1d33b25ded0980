"""What a model itself says of each sample alone: hooks and eager attention of our own, nothing of the capture's.

Blocks are found by looking at all modules, image tokens by what changes when another picture is shown, attention by
what the eager functions of the model's own files return.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import nn

from actstore_extract.models.kind import Kind
from actstore_extract.models.samples import Sample, others, samples

__all__ = ["N_GENERATED", "Reference", "Said", "UnreadableError", "reference"]

Array = NDArray[np.float32]

N_GENERATED = 4
_BLOCKS = ("layers", "h", "block", "blocks", "layer", "layers_")
_SEEING = ("vision", "visual", "image", "audio", "qformer", "perceiver", "sam", "vit", "resampler", "projector")
_OTHER = ("dit", "connector", "encoder", "mtp", "speech", "depth_decoder", "protein", "codec", "vq", "expert")
_SAME = 1e-3
_FAR = 4  # an image's closing token stands this near


class UnreadableError(Exception):
    """No reference can be had of this model; the message says why."""


@dataclass
class Said:
    """One sample alone.

    `residual` are L + 1 points (tokens, d), or None where a stream is none of those known; `attention` is block ->
    head means (tokens, tokens) of those that have an attention; `image` are the positions that depend on the picture,
    `stop` where its block ends, `begins` whether the text's beginning stands there, `words` are no special tokens,
    `eoi` closes the image. `noise` is the largest relative difference between eager attention and the model's usual
    one.
    """

    ids: NDArray[np.int64]
    residual: list[Array | None]
    attention: dict[int, Array]
    logits: Array
    noise: float
    image: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    stop: int = 0
    begins: bool = False
    words: list[int] = field(default_factory=list)
    eoi: int | None = None
    text: str = ""


@dataclass
class Reference:
    """A model's samples, and the name of its blocks."""

    blocks: str
    samples: dict[str, Said]


def reference(kind: Kind, folder: Path) -> Reference:
    """Run every sample of a kind alone; UnreadableError when its model cannot be read."""
    usual, eager = (_loaded(kind, folder, attention) for attention in (None, "eager"))
    if usual.config.is_encoder_decoder:
        raise UnreadableError("an encoder-decoder")
    processor = _processor(kind, folder)
    name = _blocks(usual)
    said = {each.sample_id: _said(kind, usual, eager, processor, name, each) for each in samples(kind)}
    return Reference(name, said)


def _loaded(kind: Kind, folder: Path, attention: str | None) -> Any:
    auto = transformers.AutoModelForImageTextToText if kind.image_text else transformers.AutoModelForCausalLM
    options = {} if attention is None else {"attn_implementation": attention}
    try:
        return auto.from_pretrained(folder, dtype=torch.float32, **options).eval()  # type: ignore[no-untyped-call]
    except ValueError:  # knows one implementation alone
        return auto.from_pretrained(folder, dtype=torch.float32).eval()  # type: ignore[no-untyped-call]


def _processor(kind: Kind, folder: Path) -> Any:
    auto = transformers.AutoProcessor if kind.processor else transformers.AutoTokenizer
    return auto.from_pretrained(folder)


def _blocks(model: nn.Module) -> str:
    """Dotted name of the language model's blocks: the longest list of layers that is no other part's."""
    found = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList)
        and name.split(".")[-1] in _BLOCKS
        and not any(part in name for part in (*_SEEING, *_OTHER))
    ]
    found = found or [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and name.split(".")[-1] in _BLOCKS
    ]
    if not found:
        raise UnreadableError("no list of blocks")
    longest = max(n for n, _ in found)
    return str(next(name for n, name in found if n == longest))


@torch.no_grad()
def _said(kind: Kind, usual: Any, eager: Any, processor: Any, name: str, sample: Sample) -> Said:
    inputs = _inputs(kind, usual, processor, sample)
    ids = inputs["input_ids"][0].numpy().astype(np.int64)
    points, logits = _points(usual, inputs, name, kind.norm)
    plain, attention = _eager(eager, inputs, name, kind.norm, len(ids))
    said = Said(
        ids, [_stream(x, len(ids), _side_by_side(usual)) for x in points], attention, logits, _noise(points, plain)
    )
    if sample.picture is not None:
        _locate(said, kind, processor, _changed(kind, usual, processor, name, sample, points[0], ids))
    said.text = _generated(usual, processor, inputs, len(ids))
    return said


def _inputs(kind: Kind, model: Any, processor: Any, sample: Sample) -> dict[str, Any]:
    accepted = inspect.signature(type(model).forward).parameters
    if sample.picture is None:
        given = processor(text=sample.prompt, return_tensors="pt")
    else:
        own = getattr(processor, "image_token", None) if kind.marker is None else kind.marker
        text = sample.prompt.replace("<image>", own if isinstance(own, str) else "<image>")
        given = processor(text=[text], images=[sample.picture], return_tensors="pt", **kind.ask)
    return {
        key: value.to(model.dtype) if value.is_floating_point() else value
        for key, value in given.items()
        if key in accepted and isinstance(value, torch.Tensor) and key != "labels"
    }


def _points(model: Any, inputs: dict[str, Any], name: str, norm: str | None) -> tuple[list[torch.Tensor], Array]:
    """Inputs of the blocks and the last's output, or the norm's input; logits (vocabulary,) after the last token."""
    blocks = list(model.get_submodule(name))
    seen: dict[int, torch.Tensor] = {}
    handles = []
    for i, block in enumerate(blocks):

        def before(_: nn.Module, args: Any, kwargs: Any, i: int = i) -> None:
            seen.setdefault(i, _first(args or list(kwargs.values())).detach().clone())

        handles.append(block.register_forward_pre_hook(before, with_kwargs=True))

    def after(_: nn.Module, __: Any, output: Any) -> None:
        seen[len(blocks)] = _first(output).detach().clone()

    def normed(_: nn.Module, args: Any) -> None:
        seen[len(blocks)] = _first(args).detach().clone()

    handles.append(blocks[-1].register_forward_hook(after))
    if norm is not None:
        handles.append(model.get_submodule(norm).register_forward_pre_hook(normed))
    try:
        given = {"use_cache": False} if "use_cache" in inspect.signature(type(model).forward).parameters else {}
        logits = model(**inputs, **given).logits[0, -1].float().numpy()
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != len(blocks) + 1:
        raise UnreadableError(f"only blocks {sorted(seen)} of {len(blocks)} run")
    return [seen[i] for i in range(len(blocks) + 1)], logits


def _first(value: Any) -> torch.Tensor:
    """The first tensor of what a block takes or gives."""
    while not isinstance(value, torch.Tensor):
        value = next(iter(value.values() if isinstance(value, dict) else value))
    return value


def _side_by_side(model: Any) -> int:
    """How many streams a token's vector holds, one behind the other."""
    return int(getattr(model.config.get_text_config(), "hc_count", None) or 1)


def _stream(x: torch.Tensor, n_tokens: int, n_streams: int = 1) -> Array | None:
    """(tokens, d) of one sample: of streams in front of the samples the first, of several a token their mean."""
    if x.ndim == 3 and x.shape[:2] == (1, n_tokens) and n_streams > 1:
        return np.asarray(x[0].reshape(n_tokens, n_streams, -1).mean(1).float())
    if x.ndim == 2 and len(x) == n_tokens:
        return x.float().numpy()
    if x.ndim == 3 and x.shape[:2] == (1, n_tokens):
        return x[0].float().numpy()
    if x.ndim == 4 and x.shape[1:3] == (1, n_tokens):
        return x[0, 0].float().numpy()
    if x.ndim == 4 and x.shape[:2] == (1, n_tokens):
        return x[0].mean(1).float().numpy()
    return None


def _noise(points: Sequence[torch.Tensor], plain: Sequence[torch.Tensor]) -> float:
    return max(float((a - b).abs().max() / a.abs().max().clamp(min=1e-12)) for a, b in zip(points, plain, strict=True))


def _eager(
    model: Any, inputs: dict[str, Any], name: str, norm: str | None, n_tokens: int
) -> tuple[list[torch.Tensor], dict[int, Array]]:
    """The points under eager attention, and its head means by block."""
    owner = {id(module): i for i, block in enumerate(model.get_submodule(name)) for module in block.modules()}
    with _recorded(model, owner) as record:
        points, _ = _points(model, inputs, name, norm)
    found = {block: weights[0] for block, weights in record.items() if len(weights) == 1} or _given(model, inputs)
    return points, {
        block: weights[0].mean(0).float().numpy()
        for block, weights in found.items()
        if weights.ndim == 4 and weights.shape[-2:] == (n_tokens, n_tokens)
    }


def _given(model: Any, inputs: dict[str, Any]) -> dict[int, torch.Tensor]:
    """Attention as the model itself gives it out, where each block has one."""
    with suppress(TypeError, ValueError, AttributeError):
        given = getattr(model(**inputs, output_attentions=True), "attentions", None) or ()
        return {i: weights for i, weights in enumerate(given) if weights is not None}
    return {}


@contextmanager
def _recorded(model: nn.Module, owner: dict[int, int]) -> Iterator[dict[int, list[torch.Tensor]]]:
    """The weights of the eager attention of the model's own files, by block."""
    record: dict[int, list[torch.Tensor]] = {}
    replaced = []
    for path in sorted({type(module).__module__ for module in model.modules()}):
        file: Any = sys.modules[path]
        function = getattr(file, "eager_attention_forward", None)
        if function is None:
            continue

        def kept(module: nn.Module, *args: Any, _function: Any = function, **kwargs: Any) -> Any:
            output = _function(module, *args, **kwargs)
            if id(module) in owner and output[1] is not None:
                record.setdefault(owner[id(module)], []).append(_acting(output[1], args[2], output[0]))
            return output

        file.eager_attention_forward = kept
        replaced.append((file, function))
    try:
        yield record
    finally:
        for file, function in replaced:
            file.eager_attention_forward = function


def _acting(weights: torch.Tensor, value: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """Weights (1, heads, queries, keys) as they act: some functions shrink what they mixed by a sink afterwards."""
    if weights.ndim != 4 or value.ndim != 4 or weights.shape[1] % value.shape[1]:
        return weights.detach()
    values = value.repeat_interleave(weights.shape[1] // value.shape[1], dim=1)
    mixed, output = weights @ values, output.transpose(1, 2)
    if mixed.shape != output.shape:
        return weights.detach()
    factor = (mixed * output).sum(-1, keepdim=True) / (mixed * mixed).sum(-1, keepdim=True)
    return (weights if (factor - 1).abs().max() < _SAME else weights * factor).detach()


def _changed(
    kind: Kind,
    model: Any,
    processor: Any,
    name: str,
    sample: Sample,
    mine: torch.Tensor,
    ids: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Positions at which the first block is given something else when another picture is shown.

    Where a picture becomes codes, which may be the same in all pictures: at which it is given the word of a code.
    """
    axis = next((i for i, n in enumerate(mine.shape[:-1]) if n == len(ids)), None)
    if axis is None:
        raise UnreadableError(f"the first block is given {tuple(mine.shape)} for {len(ids)} tokens")
    if kind.codes is not None:
        words = getattr(processor, "tokenizer", processor).get_vocab()
        codes = torch.tensor([token for word, token in words.items() if word.startswith(kind.codes)])
        table = model.get_input_embeddings().weight[codes]
        return np.flatnonzero((mine.reshape(len(ids), 1, -1) == table).all(-1).any(1).numpy())
    changed = np.zeros(len(ids), bool)
    for other in others(sample):
        given = _embedded(model, _inputs(kind, model, processor, other), name)
        if given.shape == mine.shape:
            changed |= (mine != given).movedim(axis, 0).flatten(1).any(1).numpy()
    return np.flatnonzero(changed)


def _embedded(model: Any, inputs: dict[str, Any], name: str) -> torch.Tensor:
    """What the first block is given; the rest of the forward is not run."""

    class Seen(Exception):  # noqa: N818
        pass

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        raise Seen(_first(args or list(kwargs.values())).detach().clone())

    handle = model.get_submodule(name)[0].register_forward_pre_hook(before, with_kwargs=True)
    try:
        model(**inputs)
    except Seen as seen:
        return cast(torch.Tensor, seen.args[0])
    finally:
        handle.remove()
    raise UnreadableError("the first block does not run")


def _locate(said: Said, kind: Kind, processor: Any, image: NDArray[np.int64]) -> None:
    """Note where the image is and where its block ends, its closing token with it."""
    said.image = image
    words = getattr(processor, "tokenizer", processor)
    machinery = [*words.all_special_ids, words.convert_tokens_to_ids(kind.marker or "<image>")]
    said.words = np.flatnonzero(~np.isin(said.ids, machinery)).tolist()
    if not len(image):
        return
    stop = int(image[-1]) + 1
    while stop < len(said.ids) and said.ids[stop] == said.ids[image[-1]]:
        stop += 1
    closing = None if kind.end is None else words.convert_tokens_to_ids(kind.end)
    near = [at for at in range(stop - 1, min(len(said.ids), stop + _FAR)) if said.ids[at] == closing]
    said.eoi = near[0] if near else None
    said.stop = stop if said.eoi is None else said.eoi + 1
    said.begins = said.stop < len(said.ids) and said.ids[said.stop] == words.bos_token_id


def _generated(model: Any, processor: Any, inputs: dict[str, Any], n_tokens: int) -> str:
    words = getattr(processor, "tokenizer", processor)
    with suppress(AttributeError, ValueError, TypeError, RuntimeError, IndexError, NotImplementedError):
        # Whatever else the class would have done to its logits is no greedy text.
        greedy: Any = transformers.GenerationConfig
        model.generation_config = greedy(pad_token_id=0, eos_token_id=2)
        tokens = model.generate(**inputs, max_new_tokens=N_GENERATED)[0]
        return str(words.decode(tokens[n_tokens:], skip_special_tokens=True)).strip()
    return "no generation"
