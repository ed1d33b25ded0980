"""Checkpoints that cannot be run are refused by name, with what can be taken in their place."""

import json

import pytest

from actstore.commands.main import run

KINDS = {
    "llava-1.5": (
        {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "hidden_size": 64},
        "is a LlavaLlamaForCausalLM: it is in the form of LLaVA's own code, which Transformers does not load",
    ),
    "llava-1": (
        {"architectures": ["LlavaLlamaForCausalLM"], "model_type": "llava", "mm_use_im_start_end": True},
        "llava-hf/llava-1.5-7b-hf (LLaVA's first release, whose weights are differences to LLaMA's, has none",
    ),
    "janus": (
        {"model_type": "multi_modality", "language_config": {"model_type": "llama"}},
        "Janus's own code, which Transformers does not load: take deepseek-community/Janus-Pro-1B",
    ),
    "fuyu": (
        {"architectures": ["FuyuForCausalLM"], "model_type": "fuyu"},
        "is a FuyuForCausalLM: its processor writes the image into the prompt by itself",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", None])
def test_one_line_says_what_it_is_and_what_to_take(tmp_path, capsys, kind, dtype):
    config, message = KINDS[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    asked = ["--set", f"model.path={tmp_path}", *(["--set", "model.dtype=float32"] if dtype else [])]
    (tmp_path / "recipe.toml").write_text(
        '[model]\npath = ""\n[samples]\nsource = "digits"\nlimit = 1\n[prompt]\ntext = "<image> a"\n'
        '[capture]\nroles = ["last"]\n'
    )
    assert run(["extract", str(tmp_path / "recipe.toml"), str(tmp_path / "s"), *asked]) == 1
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "s").exists()
