"""All single-layer patches of one sample, replayed on a CPU, against whole forwards, at the shape of a 7B decoder.

python tests/bench/replay.py [--blocks 32] [--dtype float32] [--threads 1]

The weights of one random block, of Chameleon-7B's shape, stand in every layer: its costs are those of a real model's.
What replays take is measured from end to end; of the L + 1 whole forwards that online patches would take, the cost of
one follows from two with fewer blocks, since all blocks are the same. Times are CPU seconds.
"""

import copy
import sys
import time
from collections.abc import Callable

import measuring
import numpy as np
import torch
from measuring import Goal, row

import models
from actstore_extract.families import Model
from actstore_extract.replay import Branch, Job, Kept, Put, Replay
from actstore_extract.roles import Layout

VOCABULARY = 65_536
IMAGE, TEXT = 1024, 8  # tokens; two in front of the image, its end behind it
GOAL = Goal("<=", 1 / 20)


def decoder(blocks: int, shape: models.Shape, dtype: torch.dtype) -> Model:
    """One random block, in every layer."""
    module, processor = models.chameleon(shape._replace(blocks=1, side=4), dtype)
    (block,) = module.model.layers
    module.model.layers = torch.nn.ModuleList(_again(block, layer) for layer in range(blocks))
    module.lm_head = torch.nn.Linear(shape.width, VOCABULARY, bias=False, dtype=dtype)
    for weight in module.parameters():
        weight.requires_grad_(False)
    return Model(module, processor)


def _again(block: torch.nn.Module, layer: int) -> torch.nn.Module:
    """A block of the same weights, not copied, with hooks of its own."""
    made = copy.deepcopy(block, {id(weight): weight for weight in block.parameters()})
    for module in made.modules():
        if hasattr(module, "layer_idx"):
            module.layer_idx = layer
    return made


def sample(width: int) -> Kept:
    """Random residual streams, keys and values, the same in each layer: only their shapes count."""
    begin, end = 2, 2 + IMAGE
    length = end + 1 + TEXT
    x = np.random.default_rng(0).standard_normal((length, width)).astype(np.float32)
    layout = Layout(
        np.zeros(length, np.int64), image=np.arange(begin, end), boi=1, eoi=end, text=np.arange(end + 1, length)
    )
    return Kept("one", layout, lambda _, at: x[at], lambda _, n: (x[:n], x[:n]))


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one call."""
    start = time.process_time()
    call()
    return time.process_time() - start


def whole_forward(cached: Kept, blocks: int, shape: models.Shape, dtype: torch.dtype) -> float:
    """CPU seconds of one forward through all blocks, from two that are shorter."""
    few, more = min(2, blocks), min(6, blocks)
    spent = []
    for n in (few, more):
        replay = Replay(decoder(n, shape, dtype))
        replay.full(cached, Branch(0))  # the first is slower
        spent.append(seconds(lambda replay=replay: replay.full(cached, Branch(0))))
    return spent[1] + (blocks - more) * (spent[1] - spent[0]) / max(1, more - few)


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--blocks", type=int, default=32)
    parser.add_argument("--dtype", default="float32", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    blocks = 4 if asked.quick else asked.blocks
    shape = models.QUICK if asked.quick else models.SEVEN_B
    model = decoder(blocks, shape, getattr(torch, asked.dtype))
    cached = sample(shape.width)
    made = Kept(cached.sample_id, cached.layout, cached.residual)
    at = np.array([cached.layout.eoi])
    put = Put(at, lambda layer: cached.residual(layer, at) + 1)
    branches = tuple(Branch(layer, put) for layer in range(blocks + 1))
    replay, past = Replay(model), int(at[0])
    replay.packed([Job(cached, branches[-2:], past)])  # the first is slower
    forward = whole_forward(cached, blocks, shape, getattr(torch, asked.dtype))
    packed = seconds(lambda: replay.packed([Job(cached, branches, past)]))
    with_keys = seconds(lambda: replay.packed([Job(made, branches, past)]))
    suffix = seconds(lambda: [replay.packed([Job(cached, (one,), past)]) for one in branches])
    n, forwards = blocks + 1, (blocks + 1) * forward
    from_layer = forward * sum(range(blocks + 1)) / blocks
    goal = GOAL if blocks >= 32 else None  # it is about 32 layers: with fewer, there is less to save
    beside = f"{n} whole forwards (x {n})"
    rows = [
        row("packed, keys and values stored", packed, "CPU s", beside, forwards, goal=goal),
        row("packed, keys and values made", with_keys, "CPU s", beside, forwards, goal=goal),
        row(f"{n} suffix replays, keys and values stored", suffix, "CPU s", beside, forwards),
        row(f"{n} full replays, each from its layer", from_layer, "CPU s", beside, forwards),
    ]
    print(
        f"{blocks} blocks of width {shape.width}, {cached.layout.length} positions, {TEXT + 1} of them from the "
        f"patched one on, {asked.dtype}, {asked.threads} threads; full replays multiplied from one forward",
        file=sys.stderr,
    )
    measuring.finish(asked, rows)


if __name__ == "__main__":
    main()
