"""Where it is learned: the environment, devices, several processes."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

import trainings
from actstore.commands import main
from actstore_extract.families import LoadError
from actstore_extract.training import place as places
from actstore_extract.training.program import train_adapter


@pytest.fixture
def fresh():
    """accelerate as a new process finds it: it remembers what the first Accelerator was told."""

    def forget():
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    forget()
    yield
    forget()


def test_the_environment_changes_nothing_that_is_learned(folder, trained, tmp_path, monkeypatch, fresh):
    """As `accelerate launch` sets it, or a shell that was used for something else."""
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "meta")
    train_adapter(trainings.adapter_recipe(folder), tmp_path / "out", device="cpu")
    whole, _ = trained
    assert trainings.same(trainings.weights(tmp_path / "out"), trainings.weights(whole))
    assert trainings.log(tmp_path / "out").equals(trainings.log(whole))
    assert AcceleratorState().mixed_precision == "no"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", "gpu"])
def test_a_device_that_is_not_there_is_refused(folder, tmp_path, capsys, fresh, device):
    trainings.adapter_recipe(folder)
    call = ["train", "adapter", str(folder / "recipe.toml"), str(tmp_path / "out"), "--device", device]
    assert main.run(call) == 1
    assert f"no device '{device}' here: " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("named", "chosen", "reason"),
    [
        ("cpu:0", "cpu", "cpu:0 is one device for 2 processes: use cpu"),
        ("meta", "cpu", "accelerate chose cpu, not meta: unset ACCELERATE_TORCH_DEVICE"),
    ],
)
def test_processes_have_a_device_each(monkeypatch, named, chosen, reason):
    several = SimpleNamespace(num_processes=2, device=torch.device(chosen))
    monkeypatch.setattr(places, "Accelerator", lambda **_: several)
    with pytest.raises(LoadError, match=reason):
        places.place(named)
    assert places.place("cpu") == (several, trainings.CPU)


@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder, tmp_path):
    trainings.adapter_recipe(folder)
    made = ["train", "adapter", str(folder / "recipe.toml")]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    command = str(Path(sys.executable).with_name("actstore"))
    subprocess.run(
        [*launcher, command, *made, str(tmp_path / "two"), "--device", "cpu"], check=True, capture_output=True
    )
    assert main.run([*made, str(tmp_path / "one"), "--device", "cpu"]) == 0
    one, two = trainings.weights(tmp_path / "one"), trainings.weights(tmp_path / "two")
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=0)
    assert trainings.log(tmp_path / "two")["examples"].to_list() == [4] * 6
