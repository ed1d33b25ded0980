"""A GPU in one go: extraction, what is kept x batch sizes, against the bare forward of the same batches; measures.

python tests/bench/gpu.py [--minutes 7.5] [--batch-sizes 16,32,1] [--samples 128] [--json FILE]
python tests/bench/gpu.py --device cpu --shape small --samples 4 --batch-sizes 2   # does it run? no figure of it counts

A random model of Chameleon-7B's size in bfloat16, made on the device once. Tokens per second, MB/s on disk, the share
of the time in which the GPU does nothing of the bare forward, peak memory of each case; then measures on the GPU beside
numpy (devices.py), and in the end a profile of the first case. What does not fit into the minutes is said and left out;
batches of 1 take an eighth of the samples.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from devices import LARGE, TINY, rows_of
from extraction import SHAPES, compared, prepared, profiled
from measuring import Goal, finish, parser

from models import SMALL, on_device

CASES = {  # what is kept -> at least so much of the speed of the bare forward
    "4 roles": Goal(">=", 0.95),
    "4 roles + 2 attention columns": Goal(">=", 0.90),
    "suffix": Goal(">=", 0.90),
    "suffix + 2 attention columns": Goal(">=", 0.90),
    "all": Goal(">=", 0.80),
}


def main() -> None:
    made = parser(__doc__)
    made.add_argument("--device", default="cuda")
    made.add_argument("--shape", choices=[*SHAPES, "small"], default="7b")
    made.add_argument("--samples", type=int, default=128)
    made.add_argument("--batch-sizes", default="16,32,1")
    made.add_argument("--minutes", type=float, default=7.5)
    made.add_argument("--repeats", type=int, default=1, help="rounds after the one that warms up")
    asked = made.parse_args()
    end, slowest = time.monotonic() + 60 * asked.minutes, 0.0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shape = SMALL if asked.shape == "small" else SHAPES[asked.shape]
        text, model = on_device(folder, shape, asked.samples, asked.device)

        def of(case: str, batch: int) -> Any:
            limit = asked.samples if batch > 1 else max(2, asked.samples // 8)
            changes = [f"capture.batch_size={batch}", f"samples.limit={limit}"]
            return prepared(text, folder, case, asked.device, changes, model)

        sizes = [int(size) for size in asked.batch_sizes.split(",")]
        for case, batch in ((case, batch) for batch in sizes for case in CASES):
            started = time.monotonic()
            if started + slowest > end:
                print(f"left out, no time: {case}, batches of {batch}", flush=True)
                continue
            if asked.device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            found = compared(of(case, batch), folder, case, asked.repeats, CASES[case])
            rows += [{**one, "what": f"{one['what']}; batches of {batch}"} for one in found]
            for path in [*folder.glob(f"{case}-*"), folder / "hidden"]:
                shutil.rmtree(path, ignore_errors=True)
            slowest = max(slowest, time.monotonic() - started)
            print(f"{case}, batches of {batch}: {time.monotonic() - started:.0f} s", flush=True)
        if time.monotonic() + slowest < end:
            rows += rows_of(asked.device, TINY if asked.shape == "small" else LARGE)
        else:
            print("left out, no time: measures", flush=True)
        if time.monotonic() + slowest < end:
            profiled(of("4 roles", sizes[0]), folder)
    finish(asked, rows)


if __name__ == "__main__":
    main()
