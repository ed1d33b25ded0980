"""A store at a URL, measured without being copied: requests and bytes, beside what the documentation says they are.

python tests/bench/remote.py [--quick] [--gigabytes 5] [--folder DIR]

The store (bfloat16, width 2048, 17 layers; a text and an end token and 31 image tokens of each sample, 64 samples a
part) is served from the disk by the server of tests. Each measure asks for it with an empty cache, as where the disk
has no room for vectors. Requests have to be those of the formula, bytes too but for 2 %, tables those of the folder.
"""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from xml.sax.saxutils import escape

import numpy as np
import polars as pl
from measuring import Goal, finish, parser, row

import actstore
from actstore.format.names import to_bfloat16
from actstore.read import far, mirror

sys.path.insert(0, str(Path(__file__).parents[1] / "store"))
from buckets import Answer, Front, bucket

WIDTH, LAYERS, SAMPLES = 2048, 17, 64
TOKENS = {"text": 1, "end": 1, "image": 31}
FEATURES = 64
EXACT, CLOSE, SMALL = Goal("<=", 1.0), Goal("<=", 1.02), Goal("<=", 0.05)
FEW = [0, 8, 16]  # layers of what goes layer by layer and costs more to compute than to read
SEVEN = [*range(7)]  # as many as the gap reads together


class Load(NamedTuple):
    """Requests and bytes."""

    requests: int
    n_bytes: int


class Disk(Front):
    """Objects in a folder; `sent` has the bytes of each answer that had vectors."""

    root: Path
    sent: ClassVar[list[int]] = []

    def answer(self, method: str, key: str, asked: dict[str, str], body: bytes) -> Answer:  # noqa: ARG002
        """As S3 would, to who reads."""
        path = self.root / key
        if method == "LIST":
            found = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
            entries = "".join(
                f"<Contents><Key>{escape(one.relative_to(self.root).as_posix())}</Key><ETag>1</ETag>"
                f"<LastModified>2026-11-29T00:00:00.000Z</LastModified><Size>{one.stat().st_size}</Size></Contents>"
                for one in found
            )
            text = f"<ListBucketResult><IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
            return 200, text.encode(), {"Content_Type": "application/xml"}
        if not path.is_file():
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        size, headers = path.stat().st_size, {"ETag": "1", "Last_Modified": "Sun, 29 Nov 2026 00:00:00 GMT"}
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        start, end = (int(first), min(int(last) + 1, size)) if first else (0, size)
        with path.open("rb") as file:
            content = os.pread(file.fileno(), end - start, start)
        if "/residual/" in key:
            self.sent.append(len(content))
        if not first:
            return 200, content, headers
        return 206, content, {**headers, "Content_Range": f"bytes {start}-{end - 1}/{size}"}


def written(path: Path, gigabytes: float) -> actstore.Store:
    """The store, and an autoencoder of each block beside it."""
    of_sample = 2 * LAYERS * WIDTH * sum(TOKENS.values())
    parts = max(2, round(gigabytes * 1e9 / of_sample / SAMPLES))
    names = [f"s{number:06}" for number in range(parts * SAMPLES)]
    plan = pl.DataFrame({"batch": np.repeat(np.arange(parts), SAMPLES), "sample_id": names})
    plan = plan.with_columns(label=(pl.int_range(pl.len()) % 10).cast(pl.String))
    store = actstore.create(path, plan=plan, layers=range(LAYERS), d_model=WIDTH, run={"n_layers": LAYERS - 1})
    rng = np.random.default_rng(0)
    x = to_bfloat16(rng.standard_normal((SAMPLES * max(TOKENS.values()), WIDTH), np.float32))
    for number, own in enumerate(plan.partition_by("batch", maintain_order=True)):
        rows = [(name, role, k) for role, many in TOKENS.items() for name in own["sample_id"] for k in range(many)]
        residual = {
            role: np.stack([np.roll(x[: SAMPLES * many], LAYERS * number + layer, axis=1) for layer in range(LAYERS)])
            for role, many in TOKENS.items()
        }
        store.write(
            number,
            samples=own.select("sample_id", status=pl.lit("ok")),
            rows=pl.DataFrame(rows, schema=["sample_id", "role", "k"], orient="row"),
            residual=residual,
        )
    encoder = rng.standard_normal((WIDTH, FEATURES)).astype(np.float32) / WIDTH**0.5
    for block in range(LAYERS - 1):
        folder = path.with_name("saes") / f"layer_{block}"
        folder.mkdir(parents=True)
        none = np.zeros(FEATURES, np.float32)
        weights = {"W_enc": encoder, "W_dec": np.ascontiguousarray(encoder.T), "b_enc": none, "threshold": none + 1}
        np.savez(folder / "params.npz", b_dec=np.zeros(WIDTH, np.float32), **weights)
    return actstore.open(path)


def files(store: actstore.Store, role: str) -> Iterator[tuple[int, range]]:
    """Of each file of vectors of a role its size, and the layers that it holds."""
    for part in store.parts:
        spec = part.commit.arrays[f"residual/{role}"]
        for first in range(0, LAYERS, spec.shards[0]):
            size = part.commit.files[f"residual/{role}/{spec.shard_of(first)}"].size
            yield size, range(first, min(first + spec.shards[0], LAYERS))


def at_once(store: actstore.Store, roles: list[str], passes: int = 1) -> Load:
    """What reads all layers together: a request for each file."""
    sizes = [size for role in roles for size, _ in files(store, role)]
    return Load(passes * len(sizes), passes * sum(sizes))


def in_turn(store: actstore.Store, roles: list[str], layers: list[int], passes: int = 1, together: int = 1) -> Load:
    """What reads layer after layer, or so many that follow each other: the end of each file of several once, and these
    in stretches of 16 MB.
    """
    requests, n_bytes = 0, 0.0
    for role in roles:
        for size, held in files(store, role):
            own, of_layer = [layer for layer in layers if layer in held], size / len(held)
            reads = [min(together, len(own) - at) for at in range(0, len(own), together)]
            requests += (len(held) > 1 and len(own) > 0) + passes * sum(ceil(n * of_layer / far.LONGEST) for n in reads)
            n_bytes += passes * len(own) * of_layer
    return Load(requests, round(n_bytes))


@contextmanager
def served(root: Path, folder: Path) -> Iterator[None]:
    """The stores below a folder in the bucket b; the cache is in another, and no disk has room for vectors."""
    room = mirror.ROOM
    with bucket("b", type("Here", (Disk,), {"root": root})) as made:
        os.environ |= {"AWS_ENDPOINT_URL": made.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
                       "AWS_REGION": "us-east-1", "XDG_CACHE_HOME": str(folder / "cache")}  # fmt: skip
        mirror.ROOM = 1 << 60
        try:
            yield
        finally:
            mirror.ROOM = room


def measured(folder: Path, gigabytes: float) -> list[dict[str, Any]]:
    """Rows of the requests and of the bytes of each measure."""
    store = written(folder / "served" / "s", gigabytes)
    total = sum(size for role in TOKENS for size, _ in files(store, role))
    saes, sides = str(store.path.with_name("saes")), {"text": "role = 'text'", "image": "role = 'end'"}
    calls: dict[str, tuple[Callable[[Any], Any], Load]] = {
        "outliers, all layers": (lambda measure: measure.outliers(), at_once(store, [*TOKENS])),
        "cka of text, all layers": (lambda measure: measure.cka(roles="text"), at_once(store, ["text"])),
        "gap of text and end, seven layers": (
            lambda measure: measure.gap(layers=SEVEN, **sides),
            in_turn(store, ["text", "end"], SEVEN, passes=2, together=len(SEVEN)),
        ),
        "sae of image, all blocks": (
            lambda measure: measure.sae(saes=saes, roles=["image"], hook="post", no_controls=True),
            in_turn(store, ["image"], [*range(1, LAYERS)]),
        ),
        "overlap of text, three layers": (
            lambda measure: measure.overlap(roles="text", layers=FEW),
            in_turn(store, ["text"], FEW),
        ),
    }
    rows = [row("vectors on the disk", total / 1e6, "MB")]
    with served(folder / "served", folder):
        for what, (call, expected) in calls.items():
            shutil.rmtree(folder / "cache", ignore_errors=True)
            opened = actstore.open("s3://b/s")
            Disk.sent.clear()
            began = time.process_time()
            far_table = call(opened.measure).table
            spent, sent = time.process_time() - began, [*Disk.sent]
            if len(sent) != expected.requests:
                raise SystemExit(f"{what}: {len(sent)} requests, where the formula has {expected.requests}")
            if not far_table.equals(call(store.measure).table):
                raise SystemExit(f"{what}: the table at the URL is another than that of the folder")
            kept = sum(one.stat().st_size for one in (folder / "cache").rglob("*") if one.is_file())
            rows += [
                row(f"{what}: requests", len(sent), "", "formula", expected.requests, goal=EXACT),
                row(f"{what}: bytes", sum(sent) / 1e6, "MB", "formula", expected.n_bytes / 1e6, goal=CLOSE),
                row(f"{what}: kept on the disk", kept / 1e6, "MB", "vectors", total / 1e6, goal=SMALL),
                row(f"{what}: CPU, server included", spent, "s"),
            ]
    return rows


def main() -> None:
    """Print requests and bytes beside the formula, and end with status 1 where they differ."""
    made = parser(__doc__)
    made.add_argument("--gigabytes", type=float, default=5.0, help="vectors of the store, before compression")
    made.add_argument("--folder", type=Path, help="where the store is written; twice its size has to be free")
    asked = made.parse_args()
    gigabytes = 0.3 if asked.quick else asked.gigabytes
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        rows = measured(Path(folder), gigabytes)
    finish(asked, rows)
    if any(one["met"] is False for one in rows):
        raise SystemExit("bytes are not those of the formula, or vectors were kept")


if __name__ == "__main__":
    main()
