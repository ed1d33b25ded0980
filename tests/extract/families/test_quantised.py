"""Quantised checkpoints run where their library is, say so, and are refused in one line where it is not."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import tiny
from actstore_extract.families import LoadError, load
from actstore_extract.replay import load_decoder

WITHOUT_LIBRARY = {
    "bitsandbytes": ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "requires bitsandbytes: `pip install"),
    "optimum": ({"quant_method": "gptq", "bits": 4}, "requires optimum"),
    "compressed_tensors": ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
}


def quantised(folder: Path, **said: object) -> str:
    """The tiny Llama, whose configuration says that it is quantised."""
    tiny.save(tiny.model("llama"), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": said}))
    return str(folder)


@pytest.mark.parametrize("library", WITHOUT_LIBRARY)
def test_a_library_that_is_missing_is_named_in_one_line(library: str, tmp_path: Path) -> None:
    if find_spec(library):
        pytest.skip(f"{library} is there")
    said, message = WITHOUT_LIBRARY[library]
    with pytest.raises(LoadError, match=message) as caught:
        load(quantised(tmp_path, **said))
    assert "\n" not in str(caught.value)


def test_a_method_that_transformers_would_leave_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="does not read weights quantised by 'gptqq'; did you mean 'gptq'"):
        load(quantised(tmp_path, quant_method="gptqq"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="runs as it is on a GPU")
def test_the_run_card_says_what_became_of_it_and_no_replay_reads_it(tmp_path: Path) -> None:
    where = quantised(tmp_path, quant_method="fp8")
    found = load(where, dtype="float32").facts()
    assert found["quantised"] == "fp8, taken back to float32"
    assert "quantised" not in tiny.model("llama").facts()
    with pytest.raises(LoadError, match="weights are quantised .fp8., and a replay reads them as numbers"):
        load_decoder(where)
