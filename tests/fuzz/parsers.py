"""The parsers of headers, records, shards and tables against bytes that a coverage-guided fuzzer makes up (atheris).

python tests/fuzz/parsers.py [--inputs 100000] [--parser commit]

What is made up has right checksums, so that it is the parsers behind them that are tried. An ActstoreError or a value
is right; any other exception, a crash or more than 2 GB of memory ends the run with the input that did it.
"""

import argparse
import json
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from msgspec import structs

HERE = Path(__file__).parent
MEGABYTES = 2048
SECONDS = 10  # for one input
PARSERS = ("record", "commit", "header", "places", "chunk", "rows", "samples", "plan", "result")
FORMAT = ("commits", "header", "layout", "plan", "records", "results", "shards", "tables")
WATCHED = ["actstore.read.arrays", "actstore.read.parts", *(f"actstore.format.{name}" for name in FORMAT)]

Parser = Callable[[bytes], object]


def checked(content: bytes) -> bytes:
    """A record with its right checksum, whatever is in it: canonical if it is JSON."""
    from actstore.format import records

    try:
        return records.dump(json.loads(content))
    except (ValueError, RecursionError, AttributeError, TypeError):
        return content


def crc32c(content: bytes) -> bytes:
    """As it stands behind a chunk and an index."""
    from actstore.storage import local

    return int(local.crc32c_of(content), 16).to_bytes(4, "little")


def parsers(folder: Path) -> dict[str, tuple[Parser, list[bytes]]]:
    """Each parser, with inputs to begin from."""
    import polars as pl

    import making
    from actstore.format import commits, header, plan, records, results
    from actstore.format.commits import File
    from actstore.format.layout import RESIDUAL, ArraySpec
    from actstore.read.arrays import ArrayReader
    from actstore.read.parts import Part
    from actstore.storage import local

    store = making.store(folder / "s", 1)
    saved = store.save_result("count", pl.DataFrame({"n": [1]}), {})
    record = folder / "b00000000.json"
    shard = folder / "residual/eoi/c/0/0/0"
    shard.parent.mkdir(parents=True)
    layout = ArraySpec.of((1, 3, making.D_MODEL), "bfloat16", RESIDUAL)  # one chunk

    def raw(content: bytes) -> object:
        record.write_bytes(content)
        return records.load(record)

    def commit(content: bytes) -> object:
        record.write_bytes(checked(content))
        return commits.Commit.load(record)

    def head(content: bytes) -> object:
        (folder / "actstore.json").write_bytes(checked(content))
        return header.Header.load(folder)

    def read(index: bytes, data: bytes, checksum: bytes) -> object:
        shard.write_bytes(data + index + crc32c(index))
        spec = structs.replace(layout, chunk_crc32c=checksum[::-1].hex())
        return ArrayReader(folder, "residual/eoi", spec).layer(0)

    def places(content: bytes) -> object:
        return read(content[:16].ljust(16, b"\0"), content[16:], committed)

    def chunk(content: bytes) -> object:
        data = content + crc32c(content)
        return read(struct.pack("<QQ", 0, len(data)), data, crc32c(content))

    def part(name: str, content: bytes) -> Part:
        (original,) = store.parts
        (original.folder / name).write_bytes(content)
        files = {**original.commit.files, name: File.of(original.folder / name)}
        return Part(store.path, structs.replace(original.commit, files=files))

    def planned(content: bytes) -> object:
        (store.path / "plan.parquet").write_bytes(content)
        files = {**store.header.files, "plan.parquet": File.of(store.path / "plan.parquet")}
        return plan.load(replace(store.header, files=files).checked(store.path, "plan.parquet"))

    def result(content: bytes) -> object:
        path = folder / f"{saved.path.stem.rpartition('-')[0]}-{local.crc32c_of(content)}.parquet"
        path.write_bytes(content)
        try:
            return results.load(path).table()
        finally:
            path.unlink()

    tables = {name: (store.parts[0].folder / f"{name}.parquet").read_bytes() for name in ("rows", "samples")}
    commit_seeds = [path.read_bytes() for path in sorted((store.path / "commits").iterdir())]
    content = (store.parts[0].folder / "residual/eoi/c/0/0/0").read_bytes()
    offset, size = struct.unpack("<QQ", content[-16 * 3 - 4 : -16 * 2 - 4])
    committed = content[offset + size - 4 : offset + size]
    return {
        "record": (raw, commit_seeds),
        "commit": (commit, commit_seeds),
        "header": (head, [(store.path / "actstore.json").read_bytes()]),
        "places": (places, [content[-16 * 3 - 4 : -16 * 2 - 4] + content[: offset + size]]),
        "chunk": (chunk, [content[offset : offset + size - 4]]),
        "rows": (lambda content: part("rows.parquet", content).places, [tables["rows"]]),
        "samples": (lambda content: part("samples.parquet", content).samples(), [tables["samples"]]),
        "plan": (planned, [(store.path / "plan.parquet").read_bytes()]),
        "result": (result, [saved.path.read_bytes()]),
    }


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--inputs", type=int, default=100_000, help="for each parser")
    asked.add_argument("--parser", choices=PARSERS, help="each in a process of its own if not given")
    options = asked.parse_args()
    if find_spec("atheris") is None:
        sys.exit("nothing was fuzzed: atheris is not installed; pip install 'actstore[fuzz]' brings it, on Linux")
    if options.parser is None:
        for name in PARSERS:
            command = [sys.executable, __file__, "--parser", name, "--inputs", str(options.inputs)]
            if status := subprocess.run(command, check=False).returncode:
                sys.exit(status)
        return
    with tempfile.TemporaryDirectory() as scratch:
        fuzz(options.parser, options.inputs, Path(scratch))


def fuzz(name: str, inputs: int, folder: Path) -> None:
    """Try that many inputs on one parser; ends the process, with status 0 if nothing was found."""
    import atheris

    sys.path[:0] = [str(HERE.parent / "store"), str(HERE.parent.parent)]
    with atheris.instrument_imports(include=WATCHED):  # before anything else imports them
        for watched in WATCHED:
            import_module(watched)
    from actstore.errors import ActstoreError

    parser, seeds = parsers(folder)[name]
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    begin, accepted, refused = time.perf_counter(), 0, 0

    def one(content: bytes) -> None:
        nonlocal accepted, refused
        try:
            parser(content)
            accepted += 1
        except ActstoreError:
            refused += 1
        if accepted + refused == inputs:
            seconds = time.perf_counter() - begin
            print(f"{name}: {inputs} inputs, {accepted} read, {refused} refused, {seconds:.0f} s", flush=True)

    limits = [f"-runs={inputs}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={SECONDS}", "-max_len=8192", "-verbosity=0"]
    limits.append(f"-artifact_prefix={tempfile.gettempdir()}/actstore-fuzz-")
    atheris.Setup([sys.argv[0], *limits, str(corpus)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
