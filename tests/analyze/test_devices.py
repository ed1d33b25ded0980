"""Devices, and what is said of them. There is no GPU here: PyTorch's CPU stands in for one."""

import sys

import numpy as np
import pytest
import torch

import actstore
import two_sided
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.devices import HOST, Torch, checked, enough_memory, opened
from labelled import make_store

TORCH = Torch("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", "cpu:0", "mps"])
def test_what_is_no_device_is_said(name):
    with pytest.raises(ActstoreError, match=f"'{name}' is no device: cpu, cuda, or cuda:N"):
        checked(name)


def test_a_gpu_that_is_not_there_is_said_with_what_to_do(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ActstoreError, match="--device cuda: torch .* finds no GPU here.*leave --device out"):
        checked("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [checked(name) for name in ("cpu", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda:1"]
    with pytest.raises(ActstoreError, match="--device cuda:2: there is none; this machine has cuda:0 to cuda:1"):
        checked("cuda:2")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ActstoreError, match=r"--device cuda needs torch; install it with: pip install .*torch"):
        checked("cuda")
    assert checked("cpu") == "cpu"


def test_float32_goes_there_and_comes_back():
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    for device in (HOST, TORCH):
        x.flags.writeable = False
        there = device.put(x.T)
        np.testing.assert_array_equal(device.get(there), x.T)
        np.testing.assert_allclose(device.get(there.T @ there), x @ x.T, rtol=1e-6)
        assert device.get(device.wide(there)).dtype == np.float64


def test_a_device_that_rounds_factors_is_refused(monkeypatch):
    """As TF32 does, which the driver can be made to take whatever a program says."""
    torch.set_float32_matmul_precision("high")
    assert opened("cpu:0") == Torch("cpu:0")
    assert torch.get_float32_matmul_precision() == "highest"
    product = torch.Tensor.__matmul__

    def rounded(x, other):
        return product((x.view(torch.int32) & ~0x1FFF).view(torch.float32), other)

    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    with pytest.raises(ActstoreError, match="--device cpu:0 rounds products to TF32.*unset NVIDIA_TF32_OVERRIDE"):
        opened("cpu:0")


def test_too_little_memory_is_one_line():
    with (
        pytest.raises(ActstoreError, match=r"its memory is too small for this \(CUDA out of memory\): leave"),
        enough_memory("cuda"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. GPU 0 has 3 GiB")
    with pytest.raises(RuntimeError, match="else"), enough_memory("cuda"):
        raise RuntimeError("else")


def test_an_option_is_checked_before_anything_is_read(tmp_path, capsys):
    assert run(["cka", str(make_store(tmp_path / "s")), "--device", "tpu"]) == 1
    assert capsys.readouterr().err == "actstore: 'tpu' is no device: cpu, cuda, or cuda:N, one of several GPUs\n"


@pytest.mark.parametrize("workers", [["--jobs", "2"], ["--executor", "processes"]])
def test_workers_and_a_gpu_are_refused(tmp_path, capsys, gpu, workers):
    assert run(["cka", str(make_store(tmp_path / "s")), "--device", "cuda", *workers]) == 2
    assert f"--device cuda and {' '.join(workers)}: workers share" in capsys.readouterr().err


def test_results_say_the_device_and_answer_whoever_asks(tmp_path, capsys, gpu):
    store = actstore.open(make_store(tmp_path / "s"))
    asked = {"roles": "eoi", "layers": [1, 2]}
    by_gpu = store.measure.cka(**asked, device="cuda")
    (saved,) = store.results()
    assert saved.device == "cuda (Test 1)"
    assert 'device = "cuda (Test 1)"' in saved.asked
    assert "on a GPU, cuda (Test 1), in float32 without TF32" in by_gpu.methods
    assert store.sql("select device from results").item() == "cuda (Test 1)"

    assert run(["cka", str(store.path), "--roles", "eoi", "--layers", "1,2"]) == 0
    assert ", computed on cuda (Test 1); --force computes it again" in capsys.readouterr().err
    recalled = store.measure.cka(**asked)
    assert recalled.table.equals(by_gpu.table)
    assert recalled.methods == by_gpu.methods

    by_cpu = store.measure.cka(**asked, force=True)
    assert [one.device for one in store.results()] == ["cpu"]
    assert "GPU" not in by_cpu.methods
    assert store.measure.cka(**asked, device="cuda").table.equals(by_cpu.table)
    page = tmp_path / "page.html"
    store.measure.cka(**asked, device="cuda", force=True)
    assert run(["report", str(store.path), "--only", "cka", "-o", str(page)]) == 0
    assert "on a GPU, cuda (Test 1)" in page.read_text()


@pytest.mark.parametrize("more", [{}, {"minus_store": "other"}, {"pairs": "matched", "absolute": True}])
def test_the_gap_is_the_same_there(tmp_path, gpu, more):
    store = actstore.open(two_sided.make(tmp_path / "s"))
    if "minus_store" in more:
        more = {"minus_store": str(two_sided.make(tmp_path / "other"))}
    here = store.measure.gap(**more).table
    found = store.measure.gap(**more, device="cuda", force=True)
    numbers = [name for name, kind in here.schema.items() if kind.is_float()]
    assert found.table.drop(numbers).equals(here.drop(numbers))
    np.testing.assert_allclose(found.table[numbers], here[numbers], rtol=0, atol=2e-6)
    assert store.results()[0].device == "cuda (Test 1)"
    assert "on a GPU, cuda (Test 1)" in found.methods


def test_a_device_that_no_text_is_is_no_result(tmp_path):
    store = actstore.open(make_store(tmp_path / "s"))
    with pytest.raises(ActstoreError, match="device"):
        store.save_result("cka", store.sql("select 1 as a"), {}, device=3)
