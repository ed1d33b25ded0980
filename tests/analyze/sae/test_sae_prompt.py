"""How the judge of feature descriptions is asked: as the paper, as its code, or with a text of one's own."""

import json

import numpy as np
import polars as pl
import pytest
from PIL import Image

import actstore
from actstore.commands.main import run
from actstore.errors import ActstoreError
from actstore_analyze.sae.question import PROMPTS, question, text_of
from speaking import speaking

PNG = b"\x89PNG"


def test_the_paper_wants_a_strong_match_and_its_code_any():
    strict, some = (question(["dogs", "{x}"], PNG, text_of(name)).text for name in ("strict", "any"))
    for text in (strict, some):
        assert "\n\n1. dogs\n2. {x}\n\n" in text
        assert "Match found: YES or NO" in text
    assert "strongly" in strict
    assert "loose" in strict
    assert not any(word in some for word in ("strong", "loose"))
    assert question(["dogs"], PNG).text == question(["dogs"], PNG, PROMPTS["strict"]).text


def test_a_text_of_ones_own(tmp_path):
    mine, bare = tmp_path / "mine.txt", tmp_path / "bare.txt"
    mine.write_text("Is one of these {in} it?\n{descriptions}\nSay Match found: YES or Match found: NO")
    assert question(["dogs"], PNG, text_of(str(mine))).text.startswith("Is one of these {in} it?\n1. dogs\nSay")
    for text, what in (("{descriptions}", "has no 'Match found:'"), ("Match found:", "has no '{descriptions}'")):
        bare.write_text(text)
        with pytest.raises(ActstoreError, match=what):
            text_of(str(bare))
    with pytest.raises(ActstoreError, match="--prompt stict is neither a text file nor one of strict, any"):
        text_of("stict")


def test_another_prompt_is_another_question(tmp_path, capsys):
    """Each is asked once, and kept for itself."""
    made(tmp_path)
    (tmp_path / "mine.txt").write_text("{descriptions}: Match found: YES or NO?")
    with speaking(lambda _: "Match found: NO") as server:
        for prompt in ("strict", "any", str(tmp_path / "mine.txt"), "any", "strict"):
            paths = {"--saes": "saes", "--descriptions": "told", "--images": "."}
            words = [word for option, name in paths.items() for word in (option, str(tmp_path / name))]
            asked = ["--judge", "tiny", "--base-url", server.url, "--most-images", "1", "--prompt", prompt]
            assert run(["describe", str(tmp_path / "s"), *words, *asked]) == 0, capsys.readouterr()
        texts = [one["messages"][0]["content"][0]["text"] for one in server.asked]
    assert len(texts) == 3
    assert texts[2] == "1. dogs: Match found: YES or NO?"


def made(folder):
    """A store of one image token, an autoencoder that passes on its two dimensions, and what is said of them."""
    plan = pl.DataFrame({"sample_id": ["a"], "image": ["a.png"]})
    store = actstore.create(folder / "s", plan=plan, layers=[1], d_model=2, dtype="float32", run={"n_layers": 1})
    rows, x = pl.DataFrame({"sample_id": ["a"], "role": ["image"]}), np.ones((1, 1, 2), np.float32)
    store.write(0, samples=plan.select("sample_id", status=pl.lit("ok")), rows=rows, residual={"image": x})
    Image.new("RGB", (2, 3)).save(folder / "a.png")
    eye, none = np.eye(2, dtype=np.float32), np.zeros(2, np.float32)
    (folder / "saes" / "layer_0").mkdir(parents=True)
    weights = {"W_enc": eye, "W_dec": eye, "b_enc": none, "b_dec": none, "threshold": none + 0.5}
    np.savez(folder / "saes" / "layer_0" / "params.npz", **weights)
    (folder / "told" / "layer_0").mkdir(parents=True)
    said = [{"modelId": "t", "index": "0", "explanations": [{"description": "dogs"}], "frac_nonzero": 0.001}]
    (folder / "told" / "layer_0" / "batch-0.json").write_text(json.dumps(said))
