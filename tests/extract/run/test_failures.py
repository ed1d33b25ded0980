"""One sample is one sample: what nobody expects of it makes it a failed row, and the others are as without it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import tiny
from actstore.commands import main
from actstore.errors import ActstoreError
from actstore_extract.families import Model
from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run.runner import Run
from extracting import samples, vectors

RECIPE = """
[model]
path = "{folder}/model"
dtype = "float32"

[samples]
source = "table"
path = "{folder}/samples.csv"

[prompt]
text = "{{text}}"

[capture]
roles = ["last"]
batch_size = 4
part_samples = 4
max_new_tokens = 2
"""
BAD = "five"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for a model of 16 positions, and eight prompts: one is too long, one has a word of its own."""
    folder = tmp_path_factory.mktemp("texts")
    words = tiny.tokenizer([])
    config = GPT2Config(vocab_size=len(words), n_embd=16, n_layer=2, n_head=2, n_positions=16)
    torch.manual_seed(0)
    tiny.save(Model(GPT2LMHeadModel(config), words), folder / "model")
    prompts = ["one two", "one", "two " * 16, "two one", "this is a one", "this is", f"one {BAD}", "a digit"]
    rows = [f"s{i},{text}" for i, text in enumerate(prompts)]
    (folder / "samples.csv").write_text("\n".join(["sample_id,text", *rows]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE.format(folder=folder))
    return folder / "recipe.toml"


@pytest.fixture(scope="module")
def whole(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "store"
    Run(recipe.load(str(texts))).extract(path)
    return path


def failing(texts: Path, raise_it: Callable[[torch.Tensor], None], *changes: str) -> tuple[Run, list[str]]:
    """A run whose model raises for what enters it (samples, slots), once it runs; its words are known by their ids."""
    said: list[str] = []
    run = Run(recipe.load(str(texts), ["check=false", *changes]), say=said.append)
    run.model.module.register_forward_pre_hook(lambda _, __, inputs: raise_it(inputs["input_ids"]), with_kwargs=True)
    return run, said


def test_what_a_model_has_no_positions_for_is_one_failed_row(whole: Path) -> None:
    found = samples(whole)
    assert found["status"].to_list() == ["ok", "ok", "failed", *["ok"] * 5]
    assert found["error"][2] == "17 tokens, and this model has positions for 16"


@pytest.mark.parametrize("batch_size", [1, 4])
def test_what_a_forward_raises_for_one_sample_is_tried_alone_and_fails_it(
    texts: Path, whole: Path, tmp_path: Path, batch_size: int
) -> None:
    tried: list[int] = []

    def shape(ids: torch.Tensor) -> None:
        if (ids == bad).any():
            tried.append(len(ids))
            raise IndexError("index 5 is out of bounds\nfor this")

    run, said = failing(texts, shape, f"capture.batch_size={batch_size}")
    bad = run.model.tokenizer.convert_tokens_to_ids(BAD)
    run.extract(tmp_path / "store")
    assert tried == ([1, 1] if batch_size == 1 else [4, 1])
    found = samples(tmp_path / "store")
    assert found.filter(status="failed")["sample_id"].to_list() == ["s2", "s6"]
    assert found["error"][6] == "IndexError: index 5 is out of bounds for this (3 tokens, alone)"
    others = {key: one for key, one in vectors(whole).items() if key[0] != "s6"}
    mine = vectors(tmp_path / "store")
    assert mine.keys() == others.keys()
    for key, one in mine.items():  # bits of a batch of another size are another kernel's
        assert np.allclose(np.frombuffer(one, np.float32), np.frombuffer(others[key], np.float32), atol=1e-5)
    assert ("4 samples that cannot be run together are run one by one: IndexError" in "".join(said)) == (batch_size > 1)


def test_what_fails_once_and_then_runs_is_no_failure(texts: Path, whole: Path, tmp_path: Path) -> None:
    left = [1]

    def once(_: torch.Tensor) -> None:
        if left.pop() if left else False:
            raise RuntimeError("a kernel that was not ready")

    run, _ = failing(texts, once)
    run.extract(tmp_path / "store")
    assert samples(tmp_path / "store")["status"].equals(samples(whole)["status"])


def test_a_sample_too_large_alone_fails_and_the_run_goes_on(texts: Path, tmp_path: Path) -> None:
    def large(ids: torch.Tensor) -> None:
        if (ids == bad).any():
            raise torch.OutOfMemoryError("out of memory")

    run, _ = failing(texts, large)
    bad = run.model.tokenizer.convert_tokens_to_ids(BAD)
    run.extract(tmp_path / "store")
    found = samples(tmp_path / "store")
    assert found.filter(status="failed")["sample_id"].to_list() == ["s2", "s6"]
    assert found["error"][6].startswith(
        "not enough memory (3 tokens, alone): take a larger device, device_map = 'auto'"
    )


def test_when_nothing_runs_there_is_no_store_and_a_store_keeps_what_it_has(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(_: torch.Tensor) -> None:
        raise RuntimeError("no kernel for this device")

    run, _ = failing(texts, never)
    with pytest.raises(RecipeError, match="none of the first 8 samples can be run; the first: RuntimeError: no kernel"):
        run.extract(tmp_path / "store")
    assert not (tmp_path / "store").exists()

    first, _ = failing(texts, lambda _: None)
    monkeypatch.setattr(first, "_free", lambda store, _: store.remaining[:1] if len(store.remaining) == 2 else [])
    first.extract(tmp_path / "store")
    monkeypatch.setattr("actstore_extract.run.extractor.IN_A_ROW", 3 / 32)
    run, _ = failing(texts, never)
    with pytest.raises(ActstoreError, match="3 samples in a row cannot be run, the last for: RuntimeError: no kernel"):
        run.extract(tmp_path / "store")
    assert samples(tmp_path / "store").height == 4
    Run(recipe.load(str(texts), ["check=false"])).extract(tmp_path / "store")  # goes on
    assert samples(tmp_path / "store")["status"].to_list().count("ok") == 7


def test_what_nobody_expects_in_preparing_is_tried_once_more(texts: Path, tmp_path: Path) -> None:
    run = Run(recipe.load(str(texts), ["check=false"]))
    own, tried = run.model.encode, []

    def encode(prompt: object) -> object:
        tried.append(prompt.sample_id)
        if prompt.sample_id == "s1" or (prompt.sample_id == "s3" and tried.count("s3") == 1):
            raise TypeError("int() argument must be a string")
        return own(prompt)

    run.model.encode = encode
    run.extract(tmp_path / "store")
    found = samples(tmp_path / "store")
    assert found.filter(pl.col("status") == "failed")["sample_id"].to_list() == ["s1", "s2"]
    assert found["error"][1] == "TypeError: int() argument must be a string"


def test_words_that_a_model_has_no_embedding_for(texts: Path, tmp_path: Path) -> None:
    run = Run(recipe.load(str(texts), ["check=false"]))
    few = torch.nn.Embedding.from_pretrained(run.model.module.get_input_embeddings().weight[:-1].clone())
    run.model.module.set_input_embeddings(few)
    last = run.model.tokenizer.convert_ids_to_tokens(few.num_embeddings)
    prompt = tiny.prompts([f"one {last}"])[0]
    with pytest.raises(ActstoreError, match=rf"'{last}' is token {few.num_embeddings}, and this model has"):
        run.model.encode(prompt)


def test_a_sample_without_a_prompt_fails_alone(texts, tmp_path, capfd):
    (tmp_path / "samples.csv").write_text("sample_id,text\na,one two\nb,\nc,one\n")
    asked = ["extract", str(texts), str(tmp_path / "s"), "--set", f"samples.path={tmp_path / 'samples.csv'}"]
    status = main.run(asked)
    said = capfd.readouterr().err
    assert "1 of 3 samples fail, b the first: no prompt: this sample has none, or lacks what a {column} of" in said
    assert status == 3
    rows = samples(tmp_path / "s").select("sample_id", "status", "error").rows()
    assert [(name, how) for name, how, _ in rows] == [("a", "ok"), ("b", "failed"), ("c", "ok")]
    assert rows[1][2].startswith("no prompt: ")
    assert main.run(asked) == 0


def test_a_device_that_is_lost_stops_the_run_and_fails_nobody(
    texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a GPU is after an assertion: whatever it is asked from then on is the same error."""
    own, lost = torch.zeros, []

    def zeros(*shape: object, **options: object) -> torch.Tensor:
        if lost and "device" in options:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return own(*shape, **options)

    def assertion(ids: torch.Tensor) -> None:
        if (ids == bad).any():
            lost.append(True)
            raise RuntimeError("CUDA error: device-side assert triggered")

    run, _ = failing(texts, assertion)
    bad = run.model.tokenizer.convert_tokens_to_ids(BAD)
    monkeypatch.setattr("actstore_extract.run.failures.torch.zeros", zeros)
    with pytest.raises(ActstoreError, match="cpu does not answer any more after RuntimeError: CUDA error: device-side"):
        run.extract(tmp_path / "store")
    assert samples(tmp_path / "store")["sample_id"].to_list() == ["s0", "s1", "s2", "s3"]
