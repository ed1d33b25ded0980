"""Keys and values are bit for bit what the model's own cache holds after a prefill."""

import numpy as np
import pytest
import torch
from transformers import DynamicCache

import actstore
import tiny
from actstore import ActstoreError
from actstore.maintain import verify
from actstore_extract.families import Batch, Model, Prompt, load
from actstore_extract.forward.capture import CaptureError, NotFiniteError, Selection, capture
from actstore_extract.forward.tap import AttentionError
from actstore_extract.interventions.blocks import block_attention, parse_block
from actstore_extract.recipe import recipe
from actstore_extract.recipe.needs import needs
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.roles import parse_role, positions
from actstore_extract.run.content import samples_per_part
from actstore_extract.run.estimate import estimate
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from extracting import SMALL, extract
from tiny import BATCHES, MIXED, SAME

NOTHING = np.empty(0, np.int64)


@pytest.fixture(scope="module", params=tiny.SYSTEMS)
def model(request: pytest.FixtureRequest) -> Model:
    return tiny.model(request.param)


@pytest.fixture(params=BATCHES)
def batch(request: pytest.FixtureRequest, model: Model) -> Batch:
    texts, left, more = BATCHES[request.param]
    return tiny.filled(model, make(model, texts, left=left), more, left=left)


def make(model: Model, texts: list[str], *, left: bool = False) -> Batch:
    return model.collate([model.encode(prompt) for prompt in tiny.prompts(texts)], left=left)


def everywhere(batch: Batch) -> list[Selection]:
    return [Selection(NOTHING, kv=np.arange(layout.length)) for layout in batch.layouts]


@torch.no_grad()
def cached(model: Model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values (blocks, samples, slots, heads * width) of the cache that the model itself fills."""
    cache = DynamicCache()
    model.module(**batch.inputs, past_key_values=cache, use_cache=True)
    found = [[x.transpose(1, 2).flatten(2) for x in (layer.keys, layer.values)] for layer in cache.layers]
    keys, values = zip(*found, strict=True)
    return torch.stack(keys), torch.stack(values)


def valid(batch: Batch, x: torch.Tensor) -> torch.Tensor:
    """The rows of x (blocks, samples, slots, d) that are no padding."""
    return x[:, batch.inputs["attention_mask"].bool()]


def test_bit_equal_to_the_models_own_cache(model: Model, batch: Batch) -> None:
    blocks = range(model.n_layers)
    captured = capture(model, batch, everywhere(batch), layers=[model.n_layers], blocks=blocks)
    keys, values = (valid(batch, x) for x in cached(model, batch))
    facts = model.facts()
    assert keys.shape == (4, sum(layout.length for layout in batch.layouts), facts["n_kv_heads"] * facts["head_dim"])
    assert captured.keys is not None
    assert captured.values is not None
    assert torch.equal(captured.keys, keys)
    assert torch.equal(captured.values, values)
    assert not torch.equal(captured.keys[:, 1:], keys[:, :-1])  # the controls: one row off, keys for values
    assert not torch.equal(captured.keys, values)


def test_under_a_knockout_they_are_those_of_the_knocked_out_run(model: Model) -> None:
    batch, blocks = make(model, MIXED, left=True), range(model.n_layers)
    plain = capture(model, batch, everywhere(batch), layers=[model.n_layers], blocks=blocks)
    for mode in ("pre", "post"):
        cut = parse_block({"queries": "text", "keys": "image", "mode": mode}, n_layers=4)
        with block_attention(model, batch, [cut]):
            found = capture(model, batch, everywhere(batch), layers=[model.n_layers], blocks=blocks)
            keys, values = (valid(batch, x) for x in cached(model, batch))
        assert found.keys is not None
        assert found.values is not None
        assert plain.keys is not None
        assert torch.equal(found.keys, keys)
        assert torch.equal(found.values, values)
        assert torch.equal(found.keys[0], plain.keys[0])  # block 0 reads what it read before
        assert not torch.equal(found.keys[1], plain.keys[1])


def test_keys_are_rotated(model: Model) -> None:
    """The control of the claim: what the projection alone gives is the same only at position 0."""
    batch, seen = make(model, SAME[:1]), []
    projection = model.layers[1].self_attn.k_proj
    handle = projection.register_forward_hook(lambda *args: seen.append(args[2][0]))
    captured = capture(model, batch, everywhere(batch), layers=[2], blocks=[1])
    handle.remove()
    assert captured.keys is not None
    assert not torch.equal(captured.keys[0, 1:], seen[0][1:])


def test_prefix_and_suffix_are_everything(model: Model) -> None:
    for prompt in tiny.prompts(MIXED):
        layout = model.encode(prompt).layout
        prefix, suffix = (positions(parse_role(role), layout, seed=0, sample_id="s") for role in ("prefix", "suffix"))
        assert prefix is not None
        assert suffix is not None
        assert np.concatenate([prefix, suffix]).tolist() == list(range(layout.length))
        assert suffix[0] == (layout.image[-1] if layout.eoi is None else layout.eoi)


def test_rows_come_as_selected_and_the_rest_as_ever(model: Model) -> None:
    batch = make(model, MIXED, left=True)
    picks = [np.array([5, 3, 5]), NOTHING, np.array([0])]
    selections = [Selection(np.array([1]), (np.array([1, 2]),), pick) for pick in picks]
    found = capture(model, batch, selections, layers=[1, 3], blocks=[2, 0], next_token=True)
    keys, values = cached(model, batch)
    slots = [(0, 5), (0, 3), (0, 5), (2, 0)]
    at = [(sample, slot + int(batch.offset[sample])) for sample, slot in slots]
    for kept, full in ((found.keys, keys), (found.values, values)):
        assert kept is not None
        assert torch.equal(kept, torch.stack([full[[2, 0], sample, slot] for sample, slot in at], 1))
    without = capture(model, batch, [Selection(np.array([1]), (np.array([1, 2]),))] * 3, layers=[1, 3], next_token=True)
    assert torch.equal(found.residual, without.residual)
    assert torch.equal(found.means, without.means)
    assert found.next_logits is not None
    assert torch.equal(found.next_logits, without.next_logits)
    assert (without.keys, without.values) == (None, None)


def test_the_forward_goes_no_further_than_the_blocks() -> None:
    model = tiny.model("pixtral")
    batch, calls = make(model, SAME), []
    capture(model, batch, everywhere(batch), layers=[0])  # the first forward comes by every point
    for i, block in enumerate(model.layers):
        block.register_forward_pre_hook(lambda *_, i=i: calls.append(i))
    capture(model, batch, everywhere(batch), layers=[2], blocks=[0, 1])
    assert calls == [0, 1, 2]  # whose input is residual point 2
    calls.clear()
    found = capture(model, batch, everywhere(batch), layers=[0], blocks=[2])
    assert calls == [0, 1, 2, 3]
    assert found.keys is not None
    assert torch.equal(found.keys, valid(batch, cached(model, batch)[0])[2:3])


def test_bfloat16() -> None:
    module, processor = tiny.chameleon()
    model = Model(module.bfloat16(), processor)
    batch = make(model, MIXED)
    found = capture(model, batch, everywhere(batch), layers=[4], blocks=range(4))
    keys, values = (valid(batch, x) for x in cached(model, batch))
    assert keys.dtype == torch.bfloat16
    assert found.keys is not None
    assert found.values is not None
    assert torch.equal(found.keys, keys)
    assert torch.equal(found.values, values)


def test_not_finite_names_the_sample_and_the_block() -> None:
    model = tiny.model("chameleon")
    batch = make(model, ["<image> this digit is a", "<image> animal"])
    word = int(model.tokenizer.convert_tokens_to_ids("animal"))
    with torch.no_grad():
        model.decoder.embed_tokens.weight[word, 0] = torch.nan
    with pytest.raises(NotFiniteError, match="inf or NaN in the keys at layer 0 of s1") as caught:
        capture(model, batch, everywhere(batch), layers=[2], blocks=[0, 1])
    assert caught.value.sample_ids == ("s1",)
    image = [Selection(NOTHING, kv=layout.image) for layout in batch.layouts]
    capture(model, batch, image, layers=[1], blocks=[0])  # what is not selected may be anything


def test_blocks_that_differ_are_refused() -> None:
    model = tiny.model("llama")
    attention = model.layers[2].self_attn
    attention.k_proj = torch.nn.Linear(tiny.D_MODEL, 4 * attention.head_dim, bias=False)
    attention.v_proj = torch.nn.Linear(tiny.D_MODEL, 4 * attention.head_dim, bias=False)
    attention.num_key_value_groups = 1
    batch = make(model, ["this digit is a"])
    with pytest.raises(AttentionError, match="block 2 has keys of 4 heads of width 16, those before it 2 of width 16"):
        capture(model, batch, everywhere(batch), layers=[4], blocks=range(4))
    capture(model, batch, everywhere(batch), layers=[4], blocks=[0, 1, 3])


def test_a_position_outside_the_sample() -> None:
    model = tiny.model("chameleon")
    batch = make(model, MIXED)
    bad = [Selection(NOTHING, kv=np.array([23])), *everywhere(batch)[1:]]  # slot 23 of sample 0 is padding
    with pytest.raises(CaptureError, match="s0: a position outside its 23 tokens"):
        capture(model, batch, bad, layers=[4], blocks=[0])


# Through a recipe into a store

KV = "capture.kv=['prefix', 'last']"
FEW = ("samples.limit=6", "capture.part_samples=2", "capture.batch_size=2", "capture.roles=['suffix', 'last']", KV)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> actstore.Store:
    path = tmp_path_factory.mktemp("runs") / "s"
    extract(path, *FEW)
    return actstore.open(path)


def test_the_store_holds_the_models_own_cache(store: actstore.Store) -> None:
    assert (store.blocks, store.kv, store.roles) == (tuple(range(6)), ["last", "prefix"], ["last", "suffix"])
    assert len(store.parts) == 3
    assert (store.run["n_kv_heads"], store.run["head_dim"]) == (4, 16)
    model = load(str(MODELS["digits-fusion"]), dtype="bfloat16")
    source = recipe.load("digits-fusion").samples.samples()
    for name, text in store.sql("select sample_id, prompt from samples").iter_rows():
        batch = model.collate([model.encode(Prompt(name, text, source.image(name)))])
        expected = cached(model, batch)
        rows = store.sql(f"from rows where sample_id = '{name}' and role in ('last', 'prefix') order by hash(row_id)")
        at = rows["position"].to_list()
        assert sorted(at) == [*range(18), batch.layouts[0].length - 1]
        for block in store.blocks:
            for read, full in zip((store.keys, store.values), expected, strict=True):
                np.testing.assert_array_equal(read(rows, block=block), full[block, 0, at].float().numpy())
    assert verify.run(verify.steps(store.path)) == []


def test_what_is_not_kept_is_said(store: actstore.Store) -> None:
    suffix, prefix = (store.sql(f"from rows where role = '{role}'") for role in ("suffix", "prefix"))
    with pytest.raises(ActstoreError, match=r"role 'suffix' has no keys: they were not kept; .* in \[capture\] kv"):
        store.keys(suffix, block=0)
    with pytest.raises(ActstoreError, match=r"role 'suffix' has no values"):
        store.values(suffix, block=0)
    with pytest.raises(ActstoreError, match=r"role 'prefix' has no residual vectors: .* in \[capture\] roles"):
        store.residual(prefix, layer=0)
    with pytest.raises(ActstoreError, match="keys and values of block 6 are not in this store; it has those of blocks"):
        store.keys(prefix, block=6)


def test_blocks_follow_the_layers(store: actstore.Store, tmp_path) -> None:
    extract(tmp_path / "s", *FEW, "capture.layers=[0, 2]", "capture.next_token=false")
    few = actstore.open(tmp_path / "s")
    assert (few.layers, few.blocks) == ((0, 2), (0, 1))
    rows = few.sql("from rows where role = 'prefix' order by row_id")
    for block in few.blocks:
        np.testing.assert_array_equal(few.keys(rows, block=block), store.keys(rows, block=block))
    with pytest.raises(RecipeError, match="kv: no block runs for layer 0 alone"):
        extract(tmp_path / "t", *FEW, "capture.layers=[0]")


def test_a_role_that_no_sample_has_is_said(tmp_path) -> None:
    said: list[str] = []
    changes = [*SMALL, *FEW, "capture.kv=['eol', 'eoi']"]
    Run(recipe.load("digits-fusion", changes), say=said.append).extract(tmp_path / "s")
    assert "role 'eol': ChameleonForConditionalGeneration has none here; nothing is stored for it" in said
    assert actstore.open(tmp_path / "s").kv == ["eoi"]


def test_estimate_and_parts_count_keys_and_values(store: actstore.Store) -> None:
    run = Run(recipe.load("digits-fusion", [*SMALL, *FEW, "capture.mass=false"]))
    found = estimate(run)
    stored = dict(store.sql("select role, count(*) from rows group by all").iter_rows())
    assert found.rows["keys of prefix"] == stored["prefix"] == 6 * 18
    assert found.bytes["keys of prefix"] == found.bytes["values of prefix"] == 6 * 18 * 6 * 64 * 2
    content = run.probe(2)
    each = content.bytes // content.done
    assert each == 2 * (7 * (5 + 1) * 64 + 2 * 6 * (18 + 1) * 64) + 0
    assert samples_per_part(content, 2, 6) == min(2**27 // each, 2048) // 2 * 2


def test_needs_count_keys_and_values() -> None:
    """Those of Chameleon-7B: 32 blocks, keys and values of width 4096, an image of 1,024 tokens, bfloat16."""
    changes = "chameleon-7b/overlap", ["samples.limit=1"]
    plain, kept = (needs(recipe.load(changes[0], [*changes[1], *more])) for more in ([], ["capture.kv=['prefix']"]))
    assert plain is not None
    assert kept is not None
    assert kept.store_gb - plain.store_gb == pytest.approx(2 * 32 * 1024 * 4096 * 2 / 1e9)


def test_a_resumed_run_wants_the_same_keys(store: actstore.Store) -> None:
    with pytest.raises(ActstoreError, match="capture.kv"):
        extract(store.path, *FEW, "capture.kv=['prefix']")


@pytest.mark.parametrize(
    ("kv", "message"),
    [
        ("['prefixed']", "kv: no role is called 'prefixed'; did you mean 'prefix'"),
        ("['image-mean']", "kv: image-mean is a mean of positions, which has no keys"),
        ("'prefix'", "kv: Input should be a valid list"),
    ],
)
def test_recipes_that_cannot_be_followed(kv: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe.load("digits-fusion", [f"capture.kv={kv}"])
