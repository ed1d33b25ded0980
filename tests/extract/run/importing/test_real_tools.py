"""Files that the tools themselves have just written, where they are installed."""

import runpy
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

import actstore
import foreign
from actstore.commands.main import run
from actstore_extract.run import importing

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # their imports take long, and warn


@pytest.mark.parametrize("which", ["plain", "averaged"])
def test_easyroutine_writes_what_is_kept_of_it(tmp_path, which):
    pytest.importorskip("easyroutine", reason="easyroutine needs releases of its own of most packages")
    import tarfile

    foreign.easyroutine(tmp_path / "now" / which, averaged=which == "averaged")
    with tarfile.open(Path(__file__).parents[3] / "golden" / "easyroutine.tar.xz") as held:
        held.extractall(tmp_path, filter="data")
    stores = [
        foreign.imported(one / which, one / f"{which}.store", "easyroutine") for one in (tmp_path / "now", tmp_path)
    ]
    assert stores[0].sql("from rows").equals(stores[1].sql("from rows"))
    one, other = (store.residual(store.sql("from rows"), layers=range(3)) for store in stores)
    assert np.array_equal(one, other)


@pytest.fixture(scope="module")
def lens():
    """TransformerLens' own tiny model, some tokens and what its hooks see."""
    tl = pytest.importorskip("transformer_lens", reason="TransformerLens comes with the extra sae")
    sizes = {"n_layers": 2, "d_model": 16, "n_ctx": 12, "d_head": 8, "d_vocab": 30, "act_fn": "gelu", "device": "cpu"}
    model = tl.HookedTransformer(tl.HookedTransformerConfig(seed=0, **sizes))
    tokens = torch.randint(0, 30, (4, 5), generator=torch.Generator().manual_seed(0))
    return model, tokens, model.run_with_cache(tokens)[1]


def expected(cache, layer):
    name = f"blocks.{layer}.hook_resid_pre" if layer < 2 else "blocks.1.hook_resid_post"
    return cache[name].detach().numpy()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_cache_of_transformer_lens(tmp_path, lens, dtype):
    _, _, cache = lens
    torch.save({name: value.to(dtype) for name, value in cache.cache_dict.items()}, tmp_path / "cache.pt")
    store = foreign.imported(tmp_path / "cache.pt", tmp_path / "s", "transformer-lens")
    assert (store.header.dtype, store.layers) == (str(dtype).removeprefix("torch."), (0, 1, 2))
    for layer in range(3):
        x = torch.from_numpy(expected(cache, layer)).to(dtype).float().numpy()
        assert np.array_equal(foreign.vectors(store, "all", layer), x.reshape(-1, 16))


def test_a_cache_object_is_refused_with_what_to_save_instead(tmp_path, lens, capfd):
    torch.save(lens[2], tmp_path / "cache.pt")
    assert run(["import", str(tmp_path / "cache.pt"), str(tmp_path / "s"), "--as", "transformer-lens"]) == 1
    said = capfd.readouterr().err
    assert "holds an object of transformer_lens.ActivationCache.ActivationCache" in said
    assert "torch.save(cache.cache_dict, path)" in said


def test_a_bridge_of_transformer_lens(tmp_path):
    pytest.importorskip("transformer_lens", reason="TransformerLens comes with the extra sae")
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=16)).eval()
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(30)}, unk_token="w0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w1", pad_token="w2")
    bridge = TransformerBridge.boot_transformers("gpt2", hf_model=model, tokenizer=tokenizer, device="cpu")
    tokens = torch.arange(10).reshape(2, 5)
    _, cache = bridge.run_with_cache(tokens)
    torch.save(dict(cache.cache_dict), tmp_path / "cache.pt")
    store = foreign.imported(tmp_path / "cache.pt", tmp_path / "s", "transformer-lens")
    assert store.layers == (0, 1, 2)
    hidden = []
    for block in model.transformer.h:
        block.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    model.transformer.ln_f.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.no_grad():
        model(tokens)
    for layer in range(3):
        assert np.allclose(foreign.vectors(store, "all", layer), hidden[layer].numpy().reshape(-1, 16), atol=1e-5)


def test_what_sae_lens_cached(tmp_path, lens, monkeypatch):
    pytest.importorskip("sae_lens", reason="sae-lens is an extra")
    import sae_lens.cache_activations_runner as runner
    from datasets import Dataset

    model, _, _ = lens
    monkeypatch.setattr(runner, "load_model", lambda **_: model)
    sequences = [[(7 * i + j) % 30 for j in range(5)] for i in range(8)]
    config = runner.CacheActivationsRunnerConfig(
        dataset_path="mine",
        model_name="tiny",
        model_batch_size=2,
        hook_name="blocks.1.hook_resid_pre",
        d_in=16,
        training_tokens=40,
        context_size=5,
        new_cached_activations_path=str(tmp_path / "cached"),
        shuffle=False,
        prepend_bos=False,
        buffer_size_gb=1e-6,
    )
    runner.CacheActivationsRunner(config, override_dataset=Dataset.from_dict({"input_ids": sequences})).run()
    store = foreign.imported(tmp_path / "cached", tmp_path / "s", "sae-lens")
    assert store.layers == (1,)
    rows = store.sql("from rows order by sample_id, k")
    tokens = torch.tensor(rows["token_id"].to_list()).reshape(-1, 5)
    x = model.run_with_cache(tokens)[1]["blocks.1.hook_resid_pre"].detach().numpy()
    assert np.allclose(store.residual(rows, 1), x.reshape(-1, 16), atol=1e-5)


def test_what_actstore_exports_for_sae_lens_comes_back(tmp_path):
    with actstore.Writer(tmp_path / "first", ["a", "b"], layers=[0, 1]) as writer:
        for layer in (0, 1):
            writer.add("last", layer, np.full((2, 4), layer + 1, np.float32), ["a", "b"], token_ids=[3, 4])
    query = "from rows order by row_id"
    words = [
        "export",
        str(tmp_path / "first"),
        query,
        "--layer",
        "0",
        "--layer",
        "1",
        "-o",
        str(tmp_path / "x.sae-lens"),
    ]
    assert run(words) == 0
    store = foreign.imported(tmp_path / "x.sae-lens", tmp_path / "s", "sae-lens")
    assert (store.layers, store.sql("select token_id from rows order by row_id")["token_id"].to_list()) == (
        (0, 1),
        [3, 4],
    )
    assert np.array_equal(foreign.vectors(store, "all", 1), np.full((2, 4), 2, np.float32))


def test_what_nnsight_saved(tmp_path):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is no dependency: pip install nnsight")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=16)).eval()
    traced, tokens = nnsight.NNsight(model), torch.arange(10).reshape(2, 5)
    with traced.trace(tokens):
        first = traced.transformer.h[0].output.save()
        second = traced.transformer.h[1].output.save()
    held = {f"h.{block}": hidden.detach() for block, hidden in enumerate((first, second))}
    torch.save(held, tmp_path / "hidden.pt")
    options = ["--names", "h.{block}", "--axes", "sample,position,feature"]
    store = foreign.imported(tmp_path / "hidden.pt", tmp_path / "s", "pt", *options)
    assert store.layers == (1, 2)
    with torch.no_grad():
        hidden = model(tokens, output_hidden_states=True).hidden_states
    assert np.allclose(foreign.vectors(store, "all", 1), hidden[1].numpy().reshape(-1, 16), atol=1e-6)


def example(tool):
    """The page's example for a tool."""
    page = (Path(importing.__file__).parent / "README.md").read_text(encoding="utf-8")
    return page.split(f"\n{tool}:\n\n```python\n")[1].split("```")[0]


SAMPLES = pl.DataFrame({"sample_id": ["a", "b", "c", "d"], "label": ["x", "y", "x", "y"]})


def test_the_example_for_transformer_lens(tmp_path, lens, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, tokens, cache = lens
    exec(example("TransformerLens"), {"actstore": actstore, "samples": SAMPLES, "model": model, "tokens": tokens})
    for layer in range(3):
        x = foreign.vectors(actstore.open("lens"), "last", layer)
        assert np.allclose(x, expected(cache, layer)[:, -1], atol=1e-6)


def test_the_example_for_nnsight(tmp_path, monkeypatch):
    nnsight = pytest.importorskip("nnsight", reason="nnsight is no dependency: pip install nnsight")
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=30, n_positions=16)).eval()
    tokens = torch.arange(20).reshape(4, 5)
    script = tmp_path / "script.py"  # nnsight reads the source of what it traces
    script.write_text(example("nnsight"))
    names = {"actstore": actstore, "nnsight": nnsight, "model": nnsight.NNsight(model), "tokens": tokens}
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(script), {**names, "samples": SAMPLES, "n_layers": 2})
    hidden = []
    model.transformer.ln_f.register_forward_pre_hook(lambda _, given: hidden.append(given[0]))
    with torch.no_grad():
        first = model(tokens, output_hidden_states=True).hidden_states
    for layer, x in enumerate([*first[:2], hidden[0]]):
        assert np.allclose(foreign.vectors(actstore.open("sight"), "last", layer), x[:, -1].numpy(), atol=1e-5)
