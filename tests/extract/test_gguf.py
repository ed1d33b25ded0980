"""Models in GGUF files: dequantised once, held against the model that the file was made of."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

import actstore
import speakers
from actstore.commands import main
from actstore_extract.recipe.recipe import RecipeError, load

gguf = pytest.importorskip("gguf", reason="gguf is not installed")

NAMES = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
NAMES |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}


def rotated(weight, n_heads):
    """Rows as llama.cpp has them: of each head the two halves interleaved."""
    return weight.reshape(n_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write(path, folder, *, architecture="llama", quantised=()):
    """A file of the Llama and its byte tokenizer in a folder; `quantised` are parts of names of tensors in Q8_0."""
    lm, words = LlamaForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config, made = lm.config, gguf.GGUFWriter(path, architecture)
    made.add_name("a llama of our own")
    made.add_license("apache-2.0")
    made.add_block_count(config.num_hidden_layers)
    made.add_context_length(config.max_position_embeddings)
    made.add_embedding_length(config.hidden_size)
    made.add_feed_forward_length(config.intermediate_size)
    made.add_head_count(config.num_attention_heads)
    made.add_head_count_kv(config.num_key_value_heads)
    made.add_layer_norm_rms_eps(config.rms_norm_eps)
    made.add_rope_freq_base(10000.0)
    made.add_vocab_size(config.vocab_size)
    made.add_tokenizer_model("gpt2")
    vocabulary = sorted(words.get_vocab(), key=words.get_vocab().get)
    special = set(words.all_special_tokens)
    made.add_token_list(vocabulary)
    made.add_token_types([3 if one in special else 1 for one in vocabulary])
    made.add_token_merges([" ".join(one) for one in json.loads(words.backend_tokenizer.to_str())["model"]["merges"]])
    made.add_eos_token_id(words.eos_token_id)
    made.add_pad_token_id(words.pad_token_id)
    for name, weight in lm.state_dict().items():
        x = weight.numpy().astype(np.float32)
        parts = name.split(".")
        if parts[0] == "lm_head":
            known = "output.weight"
        elif parts[1] == "layers":
            kind = parts[-2]
            known = f"blk.{parts[2]}.{ {**NAMES, **NORMS}[kind] }.weight"
            x = rotated(x, config.num_attention_heads) if kind == "q_proj" else x
            x = rotated(x, config.num_key_value_heads) if kind == "k_proj" else x
        else:
            known = {"embed_tokens": "token_embd.weight", "norm": "output_norm.weight"}[parts[1]]
        if any(part in known for part in quantised):
            kind = gguf.GGMLQuantizationType.Q8_0
            made.add_tensor(known, gguf.quants.quantize(x, kind), raw_dtype=kind)
        else:
            made.add_tensor(known, x)
    made.write_header_to_file()
    made.write_kv_data_to_file()
    made.write_tensors_to_file()
    made.close()
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return speakers.save(tmp_path_factory.mktemp("gguf") / "lm", width=32)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


RECIPE = """
[model]
gguf = "{file}"
[samples]
source = "table"
path = "{table}"
[capture]
roles = ["last"]
dtype = "float32"
"""


def extracted(tmp_path, file, status=0):
    (tmp_path / "t.jsonl").write_text('{"prompt": "this animal is a"}\n{"prompt": "dogs and cats"}\n')
    (tmp_path / "r.toml").write_text(RECIPE.format(file=file, table=tmp_path / "t.jsonl"))
    assert main.run(["extract", str(tmp_path / "r.toml"), str(tmp_path / "s"), "--device", "cpu"]) == status


def test_a_file_is_the_model_it_was_made_of(folder, tmp_path, cached, capsys):
    extracted(tmp_path, write(tmp_path / "a.gguf", folder))
    place = tmp_path / "cache" / "actstore" / "gguf"
    told = said(capsys)
    assert f"a.gguf: dequantised to float32 it takes {4 * size(folder) / 1e9:.2g} GB in {place}, once" in told
    assert "de-quantizing" not in told  # a bar of Transformers'
    store = actstore.open(tmp_path / "s")
    assert store.run["model"] == str(tmp_path / "a.gguf")
    assert (store.run["dequantised"], store.run["licence"]) == ("12 F32", "apache-2.0")
    lm, words = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for prompt in ("this animal is a", "dogs and cats"):
        row = store.sql(f"select row_id, next_token_probability from rows where prompt = '{prompt}'")
        with torch.no_grad():
            own = lm(**words(prompt, return_tensors="pt"), output_hidden_states=True)
        np.testing.assert_array_equal(store.residual(row, 0)[0], own.hidden_states[0][0, -1])
        assert row["next_token_probability"].item() == pytest.approx(
            own.logits[0, -1].softmax(-1).max().item(), rel=1e-5
        )
    made = sorted((tmp_path / "cache").rglob("model.safetensors"))
    extracted(tmp_path, tmp_path / "a.gguf")  # goes on: nothing is left, and nothing is converted again
    assert "dequantised" not in said(capsys)
    assert sorted((tmp_path / "cache").rglob("model.safetensors")) == made


def size(folder):
    """Weights in it, those that head and embeddings share once."""
    return AutoModelForCausalLM.from_pretrained(folder).num_parameters()


def said(capsys):
    return capsys.readouterr().err


def test_a_disk_without_room_is_said_before(folder, tmp_path, cached, capsys, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    extracted(tmp_path, write(tmp_path / "a.gguf", folder), status=1)
    assert "GB are free: make room, or set XDG_CACHE_HOME" in said(capsys)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_disk_that_is_full_is_said_as_one(folder, tmp_path, disk_of, capsys, monkeypatch):
    place = disk_of("32k")
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**40))  # others filled it since
    extracted(tmp_path, write(tmp_path / "a.gguf", folder), status=1)
    end = f"a.gguf: {place}/actstore/gguf cannot be written: No space left on device"
    assert said(capsys).splitlines()[-1].endswith(end)
    assert not list(place.rglob("*.safetensors"))


def test_quantised_weights_are_said(folder, tmp_path, cached):
    extracted(tmp_path, write(tmp_path / "a.gguf", folder, quantised=("ffn_gate", "ffn_up", "ffn_down")))
    assert actstore.open(tmp_path / "s").run["dequantised"] == "9 F32, 3 Q8_0"


def bad(path):
    path.write_bytes(b"PK\x03\x04 no such file")


def cut(path):
    path.write_bytes(path.read_bytes()[:-5000])


def headless(path):
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("harm", "says"),
    [(bad, "is no GGUF file: it does not begin with the letters GGUF"), (cut, "is cut or damaged"),
     (headless, "is cut or damaged"), (lambda path: path.unlink(), "No such file or directory")],
)  # fmt: skip
def test_harmed_files_are_refused_in_a_line(folder, tmp_path, cached, capsys, harm, says):
    harm(write(tmp_path / "a.gguf", folder))
    capsys.readouterr()
    extracted(tmp_path, tmp_path / "a.gguf", status=1)
    said = capsys.readouterr().err.strip().splitlines()
    assert says in said[-1]
    assert len(said) == 1
    assert not list((tmp_path / "cache").rglob("model*"))


def test_another_architecture_is_refused(folder, tmp_path, cached, capsys):
    extracted(tmp_path, write(tmp_path / "a.gguf", folder, architecture="clip"), status=1)
    assert "its architecture is clip, and Transformers reads llama, mistral, qwen2" in capsys.readouterr().err


def test_a_recipe_names_one_model(tmp_path):
    for model, says in (
        ("path = 'x'\ngguf = 'a.gguf'", "either path or gguf"),
        ("gguf = 'a.bin'", "names a file that ends in .gguf"),
    ):
        path = tmp_path / "r.toml"
        path.write_text(f"[model]\n{model}\n[samples]\nsource = 'digits'\n[capture]\nroles = ['last']\n")
        with pytest.raises(RecipeError, match=says):
            load(str(path))
