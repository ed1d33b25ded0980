"""torchvision: which one fits, and one that is there and does not work, is named."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from actstore_extract.families.vision import broken, missing

CAUSE = "operator torchvision::nms does not exist"


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of another release of torch: its import fails."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(f"raise RuntimeError({CAUSE!r})")
    facts = tmp_path / "torchvision-0.21.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: torchvision\nVersion: 0.21.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("torch", "said"),
    [
        ("2.6.0", "pip install 'torchvision==0.21.0'"),
        ("2.13.0", "pip install 'torchvision==0.28.0'"),
        (
            "2.9.1+cu126",
            "pip install --no-deps 'torchvision==0.24.1+cu126', from the --index-url that torch 2.9.1+cu126 ",
        ),
        ("2.14.0.dev20261101+cpu", "pip install the torchvision that was released with torch 2.14.0.dev20261101+cpu"),
    ],
)
def test_what_fits_is_said(torch: str, said: str) -> None:
    assert missing(torch).startswith(f"its processor needs torchvision: {said}")


def test_what_does_not_work_is_named(torchvision: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        importlib.import_module("torchvision")
    error = ModuleNotFoundError("Could not import module 'PreTrainedModel'")  # of Transformers
    error.__cause__ = raised.value
    said = broken(error)
    assert said.startswith("torchvision 0.21.0 does not work beside torch 2.")
    assert f"({CAUSE}): pip install " in said
    assert broken(ImportError("No module named 'accelerate'")) is None


@pytest.mark.slow
def test_a_command_says_it_in_one_line(torchvision: Path) -> None:
    command = [sys.executable, "-m", "actstore", "extract", "digits-fusion", str(torchvision / "store")]
    paths = os.pathsep.join([str(torchvision), *filter(None, sys.path)])
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths})
    assert done.returncode == 1
    assert "torchvision 0.21.0 does not work beside torch" in done.stderr
    assert "Traceback" not in done.stderr
