"""Replays against the model's own forward: on every system, at every layer, every way; and what must not agree."""

from functools import cache

import numpy as np
import polars as pl
import pytest
import torch

import actstore
import kinds
import tiny
from actstore.format.plan import prepare
from actstore_extract.families import LoadError, Model
from actstore_extract.forward.capture import Selection, capture
from actstore_extract.interventions.blocks import always_blocked, parse_block
from actstore_extract.recipe import recipe
from actstore_extract.replay import Branch, Job, Kept, Put, Reader, Replay, ReplayError, load_decoder
from actstore_extract.replay import prefix as prefixes
from actstore_extract.replay.reader import stored
from actstore_extract.replay.steps import Forward
from actstore_extract.run.extractor import Extractor
from replaying import apart, captured, knocked_out, online, without_cache

TEXTS = ["<image> this digit is a", "<image> this is a one , this is a two , this digit is a"]
EXACT = 1e-5  # on logits of size 5
ROUNDING = 2e-5  # where other kernels add up in another order
WRONG = 1e-3

SYSTEMS = [name for name in tiny.SYSTEMS if name != "llava_gemma"]


@cache
def system(name: str):
    """A model, two encoded samples, and what is kept of each: the source and the receiver."""
    model = tiny.model(name)
    encoded = [model.encode(prompt) for prompt in tiny.prompts(TEXTS)]
    return model, encoded, [captured(model, one) for one in encoded]


def ends(name: str) -> tuple[np.ndarray, np.ndarray]:
    _, encoded, _ = system(name)
    return tuple(np.array([one.layout.image_end]) for one in encoded)


def layers_of(point: str) -> range:
    return range(tiny.N_LAYERS + (point == "residual"))


def put(name: str, point: str, to: np.ndarray | None = None) -> Put:
    _, _, ((source, _), _) = system(name)
    of, at = ends(name)
    return Put(at if to is None else to, lambda layer: source.residual(layer, of), point)


@pytest.mark.parametrize("point", ["residual", "attention-input"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_way_equals_the_online_patch(name, point):
    model, encoded, (_, (receiver, said)) = system(name)
    _, at = ends(name)
    branches = tuple(Branch(layer, put(name, point)) for layer in layers_of(point))
    replay, effects = Replay(model), []
    packed = [replay.packed([Job(one, branches, at[0])])[0] for one in (receiver, without_cache(receiver))]
    for i, branch in enumerate(branches):
        layers = [branch.layer] if point == "residual" else range(branch.layer, model.n_layers)
        expected = online(model, *encoded, ends(name), point, layers)
        assert apart(replay.full(receiver, branch), expected) < EXACT
        assert apart(replay.packed([Job(receiver, (branch,), at[0])])[0][0], expected) < EXACT
        for way in packed:
            assert apart(way[i], expected) < EXACT
        effects.append(apart(expected, said))
    assert max(effects) > 0.05  # a patch does something,
    if point == "residual":
        assert effects[-1] < EXACT  # but for the last, which nothing reads


@pytest.mark.parametrize("name", SYSTEMS)
def test_several_positions_means_and_sums(name):
    model, encoded, ((source, _), (receiver, _)) = system(name)
    of, at = (one.layout.image[:3] for one in encoded)
    vectors = lambda layer: source.residual(layer, of)  # noqa: E731
    added = Put(at[:1], lambda layer: vectors(layer)[:1], factor=0.5)
    whole = Put(at[:1], lambda layer: receiver.residual(layer, at[:1]) + 0.5 * vectors(layer)[:1])
    replay = Replay(model)
    branches = (Branch(2, added), Branch(2, whole), Branch(1, Put(at, vectors)), Branch(0))
    found = replay.packed([Job(receiver, branches, at[0])])[0]
    assert apart(found[0], found[1]) < EXACT
    assert apart(found[2], online(model, *encoded, (of, at), "residual", [1])) < EXACT
    assert apart(found[3], captured(model, encoded[1])[1]) < EXACT
    for branch, logits in zip(branches, found, strict=True):
        assert apart(logits, replay.full(receiver, branch)) < EXACT


BLOCKS = {
    "pre": {"queries": "text", "keys": "last-image", "mode": "pre"},
    "post": {"queries": "text", "keys": ["boi", "image", "eol"], "mode": "post"},
    "heads": {"queries": "text", "keys": ["image", "boi"], "mode": "post", "heads": [0, 1, 3], "layers": [1, 2]},
    "blind": {"queries": "text", "keys": "all", "mode": "pre", "layers": [1, 3]},
    "late": {"queries": "suffix", "keys": ["first-image", "last-image"], "mode": "pre", "layers": [2, 3]},
}


@pytest.mark.parametrize("what", BLOCKS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_knockouts_of_what_comes_after_the_image(name, what):
    model, encoded, (_, (receiver, said)) = system(name)
    block = parse_block(BLOCKS[what], n_layers=model.n_layers)
    expected = knocked_out(model, encoded[1], [block])
    begin = min(block.layers or range(model.n_layers))
    replay = Replay(model, blocked=[block])
    past = receiver.layout.image_end
    for layer in range(begin + 1):
        both = (Branch(layer), Branch(layer))
        for one in (receiver, without_cache(receiver)):
            found = replay.packed([Job(one, both, past)])[0]
            assert max(apart(logits, expected) for logits in found) < ROUNDING
        assert apart(replay.full(receiver, Branch(layer)), expected) < ROUNDING
    assert apart(expected, said) > WRONG


@pytest.mark.parametrize("name", [name for name in SYSTEMS if "gemma" not in name])  # those are eager already
def test_a_query_that_loses_every_key_under_the_eager_kernel(name):
    model = tiny.model(name)
    model.decoder.set_attn_implementation({"": "eager"})
    encoded = model.encode(tiny.prompts(TEXTS)[1])
    receiver, _ = captured(model, encoded)
    block = parse_block(BLOCKS["blind"], n_layers=model.n_layers)
    expected = knocked_out(model, encoded, [block])
    found = Replay(model, blocked=[block]).packed([Job(receiver, (Branch(0), Branch(1)), receiver.layout.image_end)])[0]
    assert max(apart(logits, expected) for logits in found) < ROUNDING
    assert apart(expected, knocked_out(system(name)[0], system(name)[1][1], [block])) < ROUNDING  # under SDPA


def test_a_gate_of_the_model_itself_holds_in_every_way():
    model = always_blocked(tiny.model("chameleon"), [{"queries": "text", "keys": "image"}])
    encoded = [model.encode(prompt) for prompt in tiny.prompts(TEXTS)]
    (source, _), (receiver, _) = (captured(model, one) for one in encoded)
    of, at = (np.array([one.layout.image_end]) for one in encoded)
    there = Put(at, lambda layer: source.residual(layer, of))
    branches = tuple(Branch(layer, there) for layer in range(model.n_layers + 1))
    packed = Replay(model).packed([Job(receiver, branches, at[0])])[0]
    for branch, logits in zip(branches, packed, strict=True):
        expected = online(model, *encoded, (of, at), "residual", [branch.layer])
        assert apart(logits, expected) < EXACT
        assert apart(Replay(model).full(receiver, branch), expected) < EXACT
    free = Replay(tiny.model("chameleon")).packed([Job(receiver, branches[:1], at[0])])[0][0]
    assert apart(free, packed[0]) > WRONG


@pytest.mark.parametrize("name", SYSTEMS)
def test_in_bfloat16_a_full_replay_is_the_online_run_to_the_bit(name):
    module, processor = tiny.SYSTEMS[name]()
    model = Model(module.to(torch.bfloat16), processor)
    encoded = [model.encode(prompt) for prompt in tiny.prompts(TEXTS)]
    (source, _), (receiver, said) = (captured(model, one) for one in encoded)
    of, at = (np.array([one.layout.image_end]) for one in encoded)
    there, replay = Put(at, lambda layer: source.residual(layer, of)), Replay(model)
    for layer in range(model.n_layers + 1):
        np.testing.assert_array_equal(replay.full(receiver, Branch(layer)), said)
        expected = online(model, *encoded, (of, at), "residual", [layer])
        np.testing.assert_array_equal(replay.full(receiver, Branch(layer, there)), expected)


# What must not agree


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_patch_beside_the_position_is_seen(name):
    model, encoded, (_, (receiver, _)) = system(name)
    _, at = ends(name)
    expected = online(model, *encoded, ends(name), "residual", [1])
    beside = put(name, "residual", to=at - 1)
    assert apart(Replay(model).full(receiver, Branch(1, beside)), expected) > WRONG
    assert apart(Replay(model).packed([Job(receiver, (Branch(1, beside),), at[0] - 1)])[0][0], expected) > WRONG


def test_slices_of_gemma_would_be_seen():
    model, _, (_, (receiver, said)) = system("clip_gemma")
    x = torch.from_numpy(receiver.residual(1, np.arange(receiver.layout.length)))[None]
    sliced = tiny.model("clip_gemma")
    sliced.decoder.layers = sliced.decoder.layers[1:]
    sliced.decoder.config.num_hidden_layers = len(sliced.decoder.layers)
    with torch.no_grad():
        logits = sliced.module(inputs_embeds=x, attention_mask=torch.ones(x.shape[:2]), use_cache=False).logits
    assert apart(logits[0, -1].numpy(), said) > WRONG
    assert apart(Forward(model).logits(x, layer=1)[0].numpy(), said) < EXACT


@pytest.mark.parametrize("name", SYSTEMS)
def test_branches_that_saw_each_other_would_be_seen(name, monkeypatch):
    model, _, (_, (receiver, _)) = system(name)
    _, at = ends(name)
    branches = (Branch(0), Branch(1, put(name, "residual")), Branch(2, put(name, "residual")))
    expected = [Replay(model).full(receiver, branch) for branch in branches]
    right = prefixes.Prefix.mask

    def open_to_all(self, own):
        mask = right(self, own)
        if mask is not None and self.branches > 1:
            mask[..., self.past :] = mask[..., : self.n, self.past : self.past + self.n].repeat(
                1, 1, self.branches, self.branches
            )
        return mask

    monkeypatch.setattr(prefixes.Prefix, "mask", open_to_all)
    found = Replay(model).packed([Job(receiver, branches, at[0])])[0]
    assert max(apart(one, other) for one, other in zip(found, expected, strict=True)) > WRONG


@pytest.mark.parametrize("name", SYSTEMS)
def test_keys_of_another_sample_would_be_seen(name):
    model, _, ((source, _), (receiver, said)) = system(name)
    _, at = ends(name)
    wrong = type(receiver)(receiver.sample_id, receiver.layout, receiver.residual, source.cached)
    assert apart(Replay(model).packed([Job(receiver, (Branch(0),), at[0])])[0][0], said) < EXACT
    assert apart(Replay(model).packed([Job(wrong, (Branch(0),), at[0])])[0][0], said) > WRONG


# From a store


@pytest.mark.parametrize("keep", ["all", "suffix"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_sample_from_a_store_is_the_sample(name, keep, tmp_path):
    model, _, kept = system(name)
    images = {str(i): prompt.image for i, prompt in enumerate(tiny.prompts(TEXTS))}
    plan = prepare(pl.DataFrame({"sample_id": ["s0", "s1"], "image": ["0", "1"], "prompt": TEXTS}))
    changes = [f"capture.roles=['{keep}']", f"capture.kv={['prefix'] if keep == 'suffix' else []}"]
    blocks, layers = range(model.n_layers), range(model.n_layers + 1)
    options = {"layers": layers, "kv_blocks": blocks if keep == "suffix" else (), "dtype": "float32", "batch_size": 1}
    found = Extractor(model, recipe.load("digits-fusion", changes), images.get, **options).content(plan)
    card = {"family": model.family, "n_layers": model.n_layers, "dtype": "float32", "weights_sha256": "", "seed": 0}
    card |= {"recipe": {"model": {}}}
    store = actstore.create(
        tmp_path / "s", plan=plan, layers=layers, blocks=options["kv_blocks"], d_model=64, dtype="float32", run=card
    )
    kinds = ("samples", "rows", "residual", "keys", "values")
    store.write(0, **{kind: getattr(found, kind) for kind in kinds})
    samples = stored(Reader(actstore.open(tmp_path / "s")), ["s0", "s1"])
    for one, (its, said) in zip(samples.values(), kept, strict=True):
        layout, known = one.layout, its.layout
        for field in ("token_ids", "image", "eol", "size", "text", "text_before"):
            np.testing.assert_array_equal(getattr(layout, field), getattr(known, field), err_msg=field)
        assert (layout.boi, layout.eoi, layout.image_end) == (known.boi, known.eoi, known.image_end)
        assert layout.special == known.special
        at = np.array([known.image_end])
        past, is_cached = one.past(at, layers, model.n_layers)
        assert (past, is_cached) == (at[0], keep == "suffix")
        job = Job(one.kept(is_cached=is_cached), tuple(map(Branch, layers)), past)
        assert max(apart(logits, said) for logits in Replay(model).packed([job])[0]) < EXACT
        assert one.is_whole is (keep == "all")
        assert one.past(at - 1, layers, model.n_layers) == ((past - 1, False) if keep == "all" else None)


# The decoder alone


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_decoder_without_its_vision_tower(name, low_memory, tmp_path):
    model = tiny.model(name)
    tiny.save(model, tmp_path)
    kept, said = captured(model, model.encode(tiny.prompts(TEXTS)[1]))
    decoder = load_decoder(str(tmp_path), dtype=torch.float32, low_memory=low_memory)
    loaded = {name for name, weight in decoder.module.named_parameters() if not weight.is_meta}
    assert not [one for one in loaded if any(part in one for part in ("vision", "vq", "embed_tokens"))]
    assert [".layers." in one for one in loaded].count(True) == (0 if low_memory else len(loaded) - 2)
    replay, branches = Replay(decoder), tuple(map(Branch, range(model.n_layers + 1)))
    for branch, logits in zip(branches, replay.packed([Job(kept, branches, 4)])[0], strict=True):
        assert apart(replay.full(kept, branch), said) < EXACT
        assert apart(logits, said) < EXACT
    assert loaded == {name for name, weight in decoder.module.named_parameters() if not weight.is_meta}


@pytest.mark.parametrize("way", ["packed", "full"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_in_low_memory_one_block_at_most_has_its_weights(name, way, tmp_path, monkeypatch):
    model = tiny.model(name)
    tiny.save(model, tmp_path)
    kept, _ = captured(model, model.encode(tiny.prompts(TEXTS)[1]))
    decoder = load_decoder(str(tmp_path), dtype=torch.float32, low_memory=True)
    seen, fill = [], decoder.shards.fill

    def count(*arguments):
        fill(*arguments)
        blocks = [any(not weight.is_meta for weight in block.parameters()) for block in decoder.layers]
        seen.append(tuple(np.flatnonzero(blocks)))

    monkeypatch.setattr(decoder.shards, "fill", count)
    branches = tuple(map(Branch, range(model.n_layers + 1)))
    if way == "full":
        Replay(decoder).full(kept, branches[0])
    else:
        Replay(decoder).packed([Job(kept, branches, 4), Job(without_cache(kept), branches, 4)])
    assert seen[-model.n_layers :] == [(layer,) for layer in range(model.n_layers)]
    assert {len(filled) for filled in seen} == {1}
    if way == "packed":
        assert len(seen) == model.n_layers  # read once for all branches and samples


def test_weights_in_several_shards_under_old_names(tmp_path):
    model = tiny.model("pixtral")
    model.module.save_pretrained(tmp_path, max_shard_size="40KB")
    model.processor.save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    assert "language_model.model.layers" in (tmp_path / "model.safetensors.index.json").read_text()
    decoder = load_decoder(str(tmp_path), dtype=torch.float32)
    kept, said = captured(model, model.encode(tiny.prompts(TEXTS)[0]))
    assert apart(Replay(decoder).full(kept, Branch(0)), said) < EXACT


def test_parts_that_are_no_checkpoint_of_their_own(tmp_path):
    file = tmp_path / "parts.toml"
    file.write_text('family = "clip_gemma"\nvision = "digits-mapped"\nlanguage = "digits-mapped"\nadapter = "a"\n')
    with pytest.raises(LoadError, match="as a checkpoint of its own, not half of one"):
        load_decoder(str(file))
    file.write_text('family = "chameleon"\nmodel = "digits-fusion"\nlora = "taught"\n')
    with pytest.raises(LoadError, match="save this model as one, merged"):
        load_decoder(str(file))
    with pytest.raises(LoadError, match="neither a folder nor on the hub|no model"):
        load_decoder(str(tmp_path / "nowhere"))
    tiny.model("chameleon").module.config.save_pretrained(tmp_path / "empty")
    tiny.model("chameleon").processor.save_pretrained(tmp_path / "empty")
    with pytest.raises(LoadError, match="has no model.safetensors: a decoder is read from safetensors"):
        load_decoder(str(tmp_path / "empty"))


def test_positions_of_several_axes_are_refused(monkeypatch):
    model = tiny.model("chameleon")
    monkeypatch.setattr(type(model.kind), "takes_position_ids", lambda *_: False)
    with pytest.raises(ReplayError, match="makes positions of its own"):
        Replay(model)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nanochat", "NanoChatForCausalLM changes what is given to its first block"),
        ("deepseek_v4", "carries several residual streams, of which the mean of 4 is kept"),
        ("inkling2_text", "gone on with from layer 1 comes to something else"),
    ],
)
def test_forwards_that_cannot_be_gone_on_with_say_why(name, why):
    with pytest.raises(ReplayError, match=why):
        Replay(kinds.text(name))


def in_memory(name):
    """A model of text, its next-token logits, and a sample with keys and values and without, where it has them."""
    model = kinds.text(name)
    encoded = model.encode(tiny.prompts([kinds.LONG])[0])
    everywhere = [Selection(np.arange(encoded.length))]
    found = capture(model, model.collate([encoded]), everywhere, layers=range(5), next_token=True)
    x = found.residual.numpy()
    return model, encoded, Kept("s0", encoded.layout, lambda layer, at: x[layer][at]), found.next_logits[0].numpy()


def test_sinks_are_in_replays_and_their_knockouts():
    model, encoded, kept, said = in_memory("gpt_oss")
    cached, _ = captured(model, encoded)
    for one in (kept, cached):
        for logits in Replay(model).packed([Job(one, tuple(map(Branch, range(5))), 4)])[0]:
            assert apart(logits, said) < EXACT
    for mode in ("pre", "post"):
        spec = {"queries": "text", "keys": ["at-2", "at-5"], "mode": mode, "layers": [1, 2]}
        block = parse_block(spec, n_layers=4)
        wanted = knocked_out(model, encoded, [block])
        assert apart(Replay(model, blocked=[block]).packed([Job(kept, (Branch(1),), 0)])[0][0], wanted) < ROUNDING
        assert apart(wanted, said) > WRONG


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("jamba", r"blocks .0, 2. of JambaModel have no attention.*--method full"),
        ("deepseek_v32", "its attention asks its cache for update_indexer.*--method full"),
        ("longcat_flash", "block 0 has 2 attentions.*--method full"),
    ],
)
def test_what_no_cache_can_stand_for_is_replayed_whole(name, why):
    model, _, kept, said = in_memory(name) if name != "longcat_flash" else (kinds.text(name), None, None, None)
    for layer in () if kept is None else range(5):
        assert apart(Replay(model).full(kept, Branch(layer)), said) < EXACT
    with pytest.raises(ReplayError, match=why):
        Replay(model).packed([Job(kept, (Branch(0),), 4)])


def test_keys_and_values_that_no_cache_holds_are_refused():
    """DeepSeek caches what its keys and values are made of."""
    model, encoded, kept, said = in_memory("deepseek_v3")
    assert apart(Replay(model).packed([Job(kept, (Branch(2),), 4)])[0][0], said) < EXACT
    with pytest.raises(ReplayError, match="caches other keys and values than those that are stored"):
        Replay(model).packed([Job(captured(model, encoded)[0], (Branch(2),), 4)])


def test_many_samples_of_different_length_go_side_by_side():
    model, _, kept = system("janus")
    jobs = [Job(one, (Branch(2), Branch(0)), int(one.layout.image_end)) for one, _ in kept for _ in range(2)]
    told = []
    found = Replay(model).packed(jobs, told.append)
    assert told == [1] * (model.n_layers + 1)
    for job, logits in zip(jobs, found, strict=True):
        said = next(said for one, said in kept if one is job.sample)
        assert max(apart(one, said) for one in logits) < EXACT
