"""One kind tried: built, extracted one by one and three together, and compared; out comes a row of the table."""

import contextlib
import io
import shutil
import time
import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import actstore
from actstore.commands import main as command_line
from actstore_extract.models.build import BuildError, build
from actstore_extract.models.compare import Differences, compare
from actstore_extract.models.kind import Kind
from actstore_extract.models.reference import N_GENERATED, Reference, UnreadableError, reference
from actstore_extract.models.row import Row
from actstore_extract.models.samples import recipe

__all__ = ["LIMIT", "trial"]

# Relative for vectors, absolute for probabilities; or, but for vectors of samples that run one by one, ten times what
# eager attention differs.
LIMIT = 1e-5
_TRACEBACK = 99
_NOISY = 1e-3  # more than that is no rounding
_BOTH = {"layers": "all", "next_token": True, "per_head": False, "dtype": "float32"}
_LESS: tuple[tuple[str, Mapping[str, Any]], ...] = (  # what is left out until a model runs
    ("", {}),
    ("lens", {"lens": False}),
    ("attention", {"attention": []}),
    ("attention and lens", {"attention": [], "lens": False}),
    ("attention, lens and generation", {"attention": [], "lens": False, "max_new_tokens": 0}),
    ("all but vectors", {"attention": [], "lens": False, "max_new_tokens": 0, "next_token": False}),
)


def trial(kind: Kind, folder: Path) -> Row:
    """Try one kind in a folder of its own, three samples a batch and one by one."""
    row = Row(kind.name, kind.architecture, kind.sees)
    began = time.process_time()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        build(kind, folder / "model")
        _try(row, kind, folder)
    except BuildError as error:
        row.verdict, row.said = "not built", str(error)
    row.seconds = round(time.process_time() - began, 1)
    return row


def _try(row: Row, kind: Kind, folder: Path) -> None:
    truth, why = _truth(kind, folder)
    store = folder / "three"
    asked = _asked(kind)
    for left_out, less in _LESS:
        asked = {**_asked(kind), **less}
        code, said = _extract(kind, folder, {**asked, "batch_size": 3}, store)
        row.left_out = left_out
        if code == 0:
            break
        if said not in row.refused:
            row.refused.append(said)
        if code == _TRACEBACK:
            row.verdict, row.said = ("wrong", f"a traceback: {said}") if truth else ("not built", why)
            return
    else:
        row.verdict, row.said = "refused", row.refused.pop(0)
        return
    if truth is None:
        row.verdict, row.said = "no reference", why
        return
    row.blocks = truth.blocks
    _judge(row, compare(store, truth, asked["attention"], sees=kind.sees), truth)
    row.batch, row.batches = row.residual, _batches(store)
    if row.verdict != "refused":
        _one_by_one(row, kind, folder, truth, asked)


def _truth(kind: Kind, folder: Path) -> tuple[Reference | None, str]:
    """The reference, or why there is none."""
    try:
        return reference(kind, folder / "model"), ""
    except UnreadableError as error:
        return None, str(error)
    except Exception as error:
        return None, _one_line(error)


def _asked(kind: Kind) -> dict[str, Any]:
    roles = ["last", "text", "all"]
    keys = ["at-0", "last-2"]
    if kind.sees:
        roles = ["eoi", "first-image", "last-image", "image", "image-mean", "last", "text"]
        keys = ["last-image", *(["eoi"] if kind.end else [])]
    roles += [key for key in keys if key not in roles]
    return {**_BOTH, "roles": roles, "attention": keys, "max_new_tokens": N_GENERATED, "lens": True}


def _extract(kind: Kind, folder: Path, asked: Mapping[str, Any], store: Path) -> tuple[int, str]:
    """Exit status of the command line and what it said; 99 and its last line for a traceback."""
    shutil.rmtree(store, ignore_errors=True)
    heard = io.StringIO()
    words = ["extract", str(recipe(kind, folder, asked, store.name)), str(store), "--device", "cpu"]
    with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
        try:
            code = command_line.run(words)
        except Exception as error:
            return _TRACEBACK, _one_line(error)
    (folder / f"{store.name}.txt").write_text(heard.getvalue(), encoding="utf-8")
    lines = [line for line in heard.getvalue().splitlines() if line.startswith("actstore: ")]
    return code, " ".join(" ".join(lines).replace(str(folder), "").removeprefix("actstore: ").split())


def _one_line(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "actstore" in frame.filename]
    last = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}{last}"


def _judge(row: Row, found: Differences, truth: Reference) -> None:
    """The verdict on what was found in a store."""
    noise = max(said.noise for said in truth.samples.values())
    limit = max(LIMIT, 10 * noise if noise < _NOISY else 0)
    row.residual, row.without = found.residual, found.without
    row.attention = None if "attention" in row.left_out or row.left_out == "all but vectors" else found.attention
    row.roles, row.generation = "; ".join(found.roles[:3]), "; ".join(found.text[:2])
    row.notes = found.wrong[:3]
    if len(found.failed) == len(truth.samples):
        row.verdict, row.said, row.residual = "refused", found.failed[0], None
        return
    figures = {"residual": found.residual, "attention": found.attention, "next token": found.probability}
    row.notes += [f"{name} off by {value:.0e}" for name, value in figures.items() if not value <= limit]
    row.notes += [f"{len(found.failed)} of {len(truth.samples)} samples failed: {one}" for one in found.failed[:1]]
    row.verdict = "wrong" if row.roles or row.generation or row.notes else "right"


def _batches(store: Path) -> str:
    """How samples shared a forward, as the self-check found that they may; empty for padded ones."""
    with closing(actstore.open(store)) as opened:
        found = str(opened.run["check"]["batches"])
    return "" if found == "padded" else found


def _one_by_one(row: Row, kind: Kind, folder: Path, truth: Reference, asked: Mapping[str, Any]) -> None:
    """The same, a sample a batch: no kernel is another one there, so what rounding makes is allowed no more."""
    single = Row(row.name, row.architecture, row.sees, left_out=row.left_out)
    code, said = _extract(kind, folder, {**asked, "batch_size": 1}, folder / "one")
    if code:
        row.verdict, row.said = "wrong", f"in batches of one: {said}"
        return
    _judge(single, compare(folder / "one", truth, asked["attention"], sees=kind.sees), truth)
    if single.residual is not None and not single.residual <= LIMIT:
        single.verdict = "wrong"
        single.notes = list(dict.fromkeys([*single.notes, f"residual off by {single.residual:.0e}"]))
    row.residual = single.residual
    if row.verdict == "wrong" and single.verdict == "right":
        row.said = "right one by one, and not in batches"
    elif single.verdict != "right":
        row.verdict, row.roles, row.generation = "wrong", single.roles, single.generation
        row.notes = [f"one by one: {note}" for note in single.notes]
