"""The papers' trainings as they ship, through the command line on tiny models, to what is extracted from their outcome.

Changed are the paths and the size of images; nothing of what is learned, from what, and how.
"""

import pytest

import actstore
import layouts
import tiny
import trainings
from actstore.commands.main import run

pytestmark = pytest.mark.slow


def done(*words, **changes):
    """Run a command with its changes; it has to succeed."""
    sets = [word for key, value in changes.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    assert run([*map(str, words), *sets, "--device", "cpu"]) == 0


def test_the_adapter_in_both_stages(tmp_path, capsys):
    trainings.parts(tmp_path)
    said = layouts.llava(tmp_path / "data")
    halves = {"model__vision": tmp_path / "vision", "model__language": tmp_path / "language", "data__llava__path": said}
    first, second = tmp_path / "first", tmp_path / "second"
    done("train", "adapter", "clip-gemma-2-2b-pretrain", first, **halves)
    more = {"data__llava__images": said.parent, "model__adapter": first}
    done("train", "adapter", "clip-gemma-2-2b-finetune", second, **halves, **more)
    assert "1 of 7 conversations have no image and are left out" in capsys.readouterr().err
    data = {"samples__path": said, "model__dtype": "float32"}
    done("extract", "clip-gemma-2-2b/sae", tmp_path / "store", model__path=second, **data)
    store = actstore.open(tmp_path / "store")
    assert set(store.sql("from samples")["status"]) == {"ok"}
    learned = store.run["adapter"]
    assert (learned["vision"], learned["scale"]) == (str(tmp_path / "vision"), "1")


def test_emu3_learns_to_answer(tmp_path, capsys):
    tiny.save(tiny.model("emu3"), tmp_path / "emu3")
    paths = {name: layouts.LAYOUTS[name](tmp_path / name) for name in ("vqav2", "coco", "llava")}
    changes = {f"data__{name}__path": path for name, path in paths.items()}
    changes |= {f"data__{name}__split": "val2014" for name in ("vqav2", "coco")}
    changes |= {f"data__{name}__resize": 8 for name in paths}
    small = {"model__processor": "{ min_pixels = 1024, max_pixels = 1024 }"}
    images = {"data__llava__images": paths["llava"].parent}
    done("train", "lora", "emu3-lora", tmp_path / "out", model__path=tmp_path / "emu3", **changes, **images, **small)
    asked = {"samples__path": paths["vqav2"], "samples__resize": 8, "capture__max_new_tokens": 2, **small}
    done("extract", "emu3/vqa", tmp_path / "store", model__path=tmp_path / "out", model__dtype="float32", **asked)
    store = actstore.open(tmp_path / "store")
    assert set(store.sql("from samples")["status"]) == {"ok"}
    assert store.run["model"] == str(tmp_path / "out")
    capsys.readouterr()
    assert run(["score", str(store.path), "--task", "vqa", "--reference", "emu3"]) == 0
    assert "vqa_accuracy" in capsys.readouterr().out
