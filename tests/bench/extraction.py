"""Extract-and-commit against the bare forward of the same batches: no head, scaled dot-product attention, no cache.

python tests/bench/extraction.py [--quick] [--only "4 roles"] [--profile]
python tests/bench/extraction.py --device cuda --shape 7b --samples 256 --batch-size 16 --only "4 roles"

The model is a random Chameleon; with --shape 7b it has the size of Chameleon-7B. On a GPU it is in bfloat16 and made
there, and no weights are on disk to be hashed. Extraction reads and prepares the images, runs the model, selects,
compresses, commits with fsync, and writes the index. The store was created before, as it is in every run but the first.
"""

import cProfile
import math
import pstats
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from measuring import Goal, Spent, finish, parser, row, speed, taking_turns

import actstore
from actstore.format.names import dtype_named
from actstore_extract.families import Batch, Model, Prompt
from actstore_extract.forward.capture import Begun, Captured, begin
from actstore_extract.recipe import recipe
from actstore_extract.run import extractor
from actstore_extract.run.places import place
from actstore_extract.run.runner import Run
from models import MIDDLE, QUICK, SEVEN_B, SMALL, on_device, picture, write

SHAPES = {"quick": QUICK, "middle": MIDDLE, "7b": SEVEN_B}
FOUR = 'capture.roles=["eoi", "last-image", "image-mean", "last"]'
COLUMNS = 'capture.attention=["eoi", "last-image"]'
CASES = {  # what is kept -> overrides of the recipe
    "4 roles": [FOUR],
    "4 roles + 2 attention columns": [FOUR, COLUMNS],
    "suffix": ['capture.roles=["suffix"]'],
    "suffix + 2 attention columns": ['capture.roles=["suffix"]', COLUMNS],
    "all": ['capture.roles=["all"]'],
    "all + 2 attention columns": ['capture.roles=["all"]', COLUMNS],
    "4 roles, batches of 1": [FOUR, "capture.batch_size=1"],
}
GOAL = Goal(">=", 0.90)  # of the speed of the bare forward
DISK = Goal("<=", 0.72)  # of the raw bytes
BUSY = Goal(">=", 0.97)  # of the time of a device
DEMO = ("digits-fusion", "digits-gated", "digits-mapped")  # models that ship


def encoded(run: Run) -> list[Batch]:
    """The batches that the recipe makes, on the device."""
    prompts = [
        Prompt(name, text, run.samples.image(image))
        for name, text, image in run.planned.select("sample_id", "prompt", "image").iter_rows()
    ]
    samples = [run.model.encode(prompt) for prompt in prompts]
    return [
        run.model.collate([samples[i] for i in batch])
        for batch in run.model.batches(samples, run.recipe.capture.batch_size)
    ]


def forward(run: Run, batches: list[Batch]) -> None:
    """The bare forward."""
    with torch.no_grad():
        for batch in batches:
            run.model.module.base_model(**batch.inputs, use_cache=False)
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@torch.no_grad()
def hidden_states(run: Run, batches: list[Batch], folder: Path) -> None:
    """What is done without a tool: output_hidden_states of each batch, and np.save; in bfloat16 as its bits."""
    folder.mkdir(exist_ok=True)
    for i, batch in enumerate(batches):
        states = run.model.module.base_model(**batch.inputs, use_cache=False, output_hidden_states=True).hidden_states
        kept = torch.stack([x.cpu() for x in states])
        np.save(folder / f"{i}.npy", (kept.view(torch.uint16) if kept.dtype == torch.bfloat16 else kept).numpy())


def prepared(text: str, folder: Path, case: str, device: str, changes: list[str], model: Model | None) -> Run:
    """The run of a case; of a model that is there already, if it is given."""
    file = folder / "bench.toml"
    file.write_text(text)
    run = Run(recipe.load(str(file), [*CASES[case], *changes]), device=device)
    if model is not None:
        run.model = model
    return run


def created(run: Run, path: Path) -> Path:
    """An empty store."""
    run._open(place(path))
    return path


def compared(run: Run, folder: Path, case: str, repeats: int, goal: Goal | None) -> list[dict[str, object]]:
    """Rows of one case."""
    on_gpu, what = run.model.device.type == "cuda", f"extract, {case}"
    batches = encoded(run)
    paths = [created(run, folder / f"{case}-{i}") for i in range(repeats + 1)]
    run.extract(paths.pop())
    calls: dict[str, Callable[[], object]] = {
        "forward": partial(forward, run, batches),
        "extract": lambda: run.extract(paths.pop()),
    }
    if not on_gpu:
        calls["encode"] = lambda: encoded(run)
    if case == "all":
        calls["hidden states"] = partial(hidden_states, run, batches, folder / "hidden")
    spent = taking_turns(calls, repeats)
    size = sum(file.stat().st_size for file in (folder / f"{case}-0").rglob("*") if file.is_file())
    tokens = sum(layout.length for batch in batches for layout in batch.layouts)
    whole, bare = spent["extract"], spent["forward"]
    rows = [
        *speed(what, whole, "bare forward", bare, goal, clock=on_gpu),
        row(what, tokens / whole.wall, "tokens/s", "bare forward", tokens / bare.wall, better="more"),
        row(what, size / 1e6 / whole.wall, "MB/s on disk"),
    ]
    if "encode" in spent:
        both = Spent(bare.cpu + spent["encode"].cpu, bare.wall + spent["encode"].wall)
        rows.append(speed(what, whole, "prepare + bare forward", both)[0])
    if "hidden states" in spent:
        rows += speed(what, whole, "output_hidden_states + np.save", spent["hidden states"])
    return [*rows, *(of_gpu(run, batches, whole.wall, what) if on_gpu else [])]


def real(folder: Path, samples: int, names: Sequence[str]) -> list[dict[str, object]]:
    """Bytes on disk of real activations, of the trained models that ship: every token of every layer, in bfloat16."""
    rows = []
    for name in names:
        run = Run(
            recipe.load(name, [f"samples.limit={samples}", 'capture.roles=["all"]', "capture.kv=[]"]), device="cpu"
        )
        run.extract(folder / name)
        (commit,) = actstore.open(folder / name).commits
        spec = commit.arrays["residual/all"]
        stored = sum(file.size for path, file in commit.files.items() if path.startswith("residual/"))
        raw = math.prod(spec.shape) * dtype_named(spec.dtype).stored.itemsize
        rows.append(row(f"on disk, {name}, {spec.dtype}", stored / 1e6, "MB", "raw", raw / 1e6, goal=DISK))
    return rows


class Device:
    """A device that takes no CPU but `seconds` for each sample, one batch after the other, as it was given them."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.first, self.free, self.busy = seconds, math.inf, 0.0, 0.0

    def begin(self, model: Model, batch: Batch, *asked: Any, **more: Any) -> Any:
        """As `begin`; what comes back waits until the device has done the batch."""
        begun, took = begin(model, batch, *asked, **more), self.seconds * len(batch)
        self.first = min(self.first, time.perf_counter())
        self.free = max(self.free, time.perf_counter()) + took
        self.busy += took
        return SimpleNamespace(result=partial(self._result, begun, self.free))

    def _result(self, begun: Begun, done: float) -> Captured:
        time.sleep(max(0.0, done - time.perf_counter()))
        return begun.result()


def waiting(folder: Path, samples: int, seconds: float = 0.03) -> list[dict[str, object]]:
    """How much of a run such a device is busy, from the first batch that it is given; pictures of 640 x 640."""
    folder.mkdir()
    text = write(folder, SMALL, samples)
    for i in range(samples):
        picture(i % 64, 640).save(folder / f"{i}.png", compress_level=1)
    (folder / "bench.toml").write_text(text)
    run = Run(recipe.load(str(folder / "bench.toml"), [FOUR]), device="cpu")
    device, path = Device(seconds), created(run, folder / "store")
    with mock.patch.object(extractor, "begin", device.begin):
        run.extract(path)
    busy = device.busy / (time.perf_counter() - device.first)
    goal = BUSY if samples >= 1024 else None
    what = f"a device that takes {1000 * seconds:g} ms a sample, {samples} samples, is busy"
    return [row(what, busy, "of the time", "all of it", 1.0, better="more", goal=goal)]


def of_gpu(run: Run, batches: list[Batch], wall: float, what: str) -> list[dict[str, object]]:
    """On a GPU: its memory, and the share of an extraction in which it does nothing of the bare forward."""
    peak = torch.cuda.max_memory_allocated()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    forward(run, batches)
    end.record()
    torch.cuda.synchronize()
    busy = start.elapsed_time(end) / 1000
    return [
        row(f"{what}: GPU at something else than the forward", 1 - busy / wall, "of the time"),
        row(f"{what}: GPU memory", peak / 1e6, "MB"),
    ]


def profiled(run: Run, folder: Path) -> None:
    """Where the time of one extraction goes, function by function."""
    path = created(run, folder / "profiled")
    # Seconds of all cores, which a busy machine does not blur; where a GPU is waited for, of the clock.
    profile = cProfile.Profile(time.perf_counter if run.model.device.type == "cuda" else time.process_time)
    profile.runcall(run.extract, path)
    pstats.Stats(profile).sort_stats("tottime").print_stats(35)


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--shape", choices=SHAPES, help="size of the model")
    made.add_argument("--device", default="cpu")
    made.add_argument("--samples", type=int, help="how many samples")
    made.add_argument("--batch-size", type=int, default=4)
    made.add_argument("--repeats", type=int)
    made.add_argument("--only", choices=CASES, action="append", help="one case, not all")
    made.add_argument("--profile", action="store_true", help="print where the time goes instead")
    asked = made.parse_args()
    shape = SHAPES[asked.shape or ("quick" if asked.quick else "middle")]
    samples = asked.samples or (12 if asked.quick else 16)
    changes = [f"capture.batch_size={asked.batch_size}"]
    cases = asked.only or (["4 roles"] if asked.quick else list(CASES))
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text, model = (
            (write(folder, shape, samples), None)
            if asked.device == "cpu"
            else on_device(folder, shape, samples, asked.device)
        )
        for case in cases:
            own = [] if any("batch_size" in change for change in CASES[case]) else changes
            run = prepared(text, folder, case, asked.device, own, model)
            if asked.profile:
                profiled(run, folder)
            else:
                repeats = asked.repeats or 2
                rows += compared(run, folder, case, repeats, None if shape is QUICK else GOAL)
            for path in folder.glob(f"{case}-*"):
                shutil.rmtree(path)
        if asked.device == "cpu" and not asked.profile:
            rows += real(folder, 16 if asked.quick else 512, DEMO[:1] if asked.quick else DEMO)
            rows += waiting(folder / "waiting", 64 if asked.quick else 1024)
    if rows:
        if not torch.cuda.is_available():
            print("no GPU here: the rows of --device cuda were not measured")
        finish(asked, rows)


if __name__ == "__main__":
    main()
