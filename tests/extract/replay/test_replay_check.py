"""The check of replays: the model that made a store passes in every number type, and another one does not."""

import json
import shutil

import numpy as np
import pytest
import torch

import actstore
import tiny
from actstore.commands.main import run
from actstore_extract.replay.check import TOLERANCE, Check
from actstore_extract.run.fingerprint import fingerprint
from extracting import extract

PAIRS = ("--pairs", "seven:three", "--limit", "2")


def save(path, *, flat=1.0, seed=None):
    """A tiny Chameleon whose head is `flat` times as steep; with a seed its blocks are drawn again."""
    model = tiny.model("chameleon")
    with torch.no_grad():
        model.module.get_output_embeddings().weight.mul_(flat)
    if seed is not None:
        tiny.spread(model.module.model.layers, seed)
    model.module.save_pretrained(path)
    model.processor.save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The model, flat, and the same with other blocks."""
    folder = tmp_path_factory.mktemp("models")
    return save(folder / "flat", flat=0.15), save(folder / "other", flat=0.15, seed=1)


def store(path, model, dtype, *changes):
    extract(
        path,
        *(f"model.path='{model}'", f"model.dtype={dtype}", "samples.split=test", "samples.limit=30"),
        *("capture.roles=['all']", f"capture.dtype={dtype}", "capture.part_samples=30", *changes),
    )
    return path


def patch(capsys, *arguments):
    status = run(["patch", *map(str, arguments), *PAIRS, "--format", "csv"])
    return status, capsys.readouterr().err


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_the_model_passes_and_other_blocks_do_not_however_flat(models, dtype, tmp_path, capsys):
    right, wrong = models
    path = store(tmp_path / "s", right, dtype)
    assert max(actstore.open(path).sql("from samples")["next_token_probability"]) < 0.1
    for method in ("packed", "full"):
        status, said = patch(capsys, path, "--method", method)
        assert (status, "; vectors at the output differ by" in said) == (0, True), said
        status, said = patch(capsys, path, "--method", method, "--model", wrong, "--force")
        assert status == 1
        assert "comes to something else than at extraction: probabilities of the likeliest tokens by" in said
        assert float(said.partition("and the vector at the output by ")[2].split(",")[0]) > 0.5


def test_without_vectors_at_the_output_what_is_said_tells(models, tmp_path, capsys):
    path = store(tmp_path / "s", models[0], "bfloat16", "capture.layers=[1]")
    status, said = patch(capsys, path)
    assert (status, "vectors at the output are not stored" in said) == (0, True), said
    status, said = patch(capsys, path, "--model", models[1], "--force")
    assert (status, "likeliest tokens by" in said, "the vector at" in said) == (1, True, False), said


def test_a_model_of_parts_is_replayed_without_its_vision_tower(tmp_path, capsys):
    folder = tmp_path / "model"
    tiny.save(tiny.model("clip_gemma"), folder)
    path = store(tmp_path / "s", folder, "float32", "prompt.text='<image> this digit is a'")
    before = json.loads((path / "actstore.json").read_text())["run"]
    assert before["decoder_sha256"] == fingerprint(str(folder / "language"))["weights_sha256"]
    shutil.rmtree(folder / "vision")
    status, said = patch(capsys, path, "--role", "last-image")
    assert status == 0, said
    status, said = patch(capsys, path, "--role", "last-image", "--model", folder / "language", "--limit", "1")
    assert status == 0, said
    weights = folder / "language" / "model.safetensors"
    with weights.open("ab") as file:
        file.write(b" ")
    status, said = patch(capsys, path, "--role", "last-image", "--method", "full")
    assert (status, "are not those that made the store" in said) == (1, True)


def test_tokens_of_one_text_are_compared_in_their_order():
    class Words:
        text = staticmethod(["a", "b", "a", "c"].__getitem__)

    check = Check.__new__(Check)
    check.decoder = Words()
    logits = np.log(np.array([0.4, 0.3, 0.2, 0.1], np.float32))
    said = {"top_tokens": ["a", "b", "a"], "top_probabilities": [0.4, 0.3, 0.2]}
    assert check._said(logits, said) == pytest.approx(0, abs=1e-6)
    other = {"top_tokens": ["b", "a", "d"], "top_probabilities": [0.4, 0.3, 0.2]}
    assert check._said(logits, other) == pytest.approx((0.1 + 0.1 + 0.2) / 0.9)
    assert check._said(logits, {"top_tokens": None, "top_probabilities": None}) is None
