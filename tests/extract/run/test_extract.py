import random
import shutil
import signal
import time
import weakref

import numpy as np
import pytest
import torch
from PIL import Image

import actstore
from actstore.commands import main
from actstore.errors import ActstoreError, PlanError
from actstore.maintain import orphans, verify
from actstore_extract.families import Prompt, load
from actstore_extract.recipe import recipe
from actstore_extract.recipe.recipe import RecipeError
from actstore_extract.run import extractor, runner
from actstore_extract.run.estimate import estimate
from actstore_extract.run.extractor import Extractor
from actstore_extract.run.runner import Run
from actstore_extract.shipped import MODELS
from extracting import SMALL, extract, samples, start, vectors


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert extract(path).samples == 24
    return path


def test_the_store_holds_what_the_recipe_says(whole):
    store = actstore.open(whole)
    assert len(store.parts) == 6
    assert not store.remaining
    assert store.layers == (0, 1, 2, 3, 4, 5, 6)
    counts = dict(store.sql("select role, count(*) from rows group by all").iter_rows())
    assert counts == {"image": 384} | dict.fromkeys(
        ["first-image", "last-image", "image-mean", "eoi", "random-text", "last"], 24
    )
    assert (
        store.sql("select distinct token from rows join vocab using (token_id) where role = 'eoi'").item() == "<eoss>"
    )
    assert store.run["weights_sha256"] == runner.fingerprint(str(MODELS["digits-fusion"]))["weights_sha256"]
    assert store.run["recipe"]["capture"]["part_samples"] == 4
    assert (whole / "index.duckdb").exists()


def test_a_second_call_does_nothing(whole, capsys):
    said = []
    done = Run(recipe.load("digits-fusion", SMALL), say=said.append).extract(whole)
    assert (done.samples, done.left) == (0, 0)
    assert said == ["0 of 24 samples left"]


def test_the_same_recipe_gives_the_same_bytes(whole, tmp_path):
    extract(tmp_path / "again")
    first, second = actstore.open(whole), actstore.open(tmp_path / "again")
    for one, other in zip(first.commits, second.commits, strict=True):
        assert one.files == other.files


def test_vectors_are_bit_equal_to_what_the_blocks_received(tmp_path):
    extract(tmp_path / "s", "capture.batch_size=1", "samples.limit=3")
    store = actstore.open(tmp_path / "s")
    model = load(str(MODELS["digits-fusion"]), dtype="bfloat16")
    source = recipe.load("digits-fusion").samples.samples()
    points = [*model.layers, model.norm]
    for name, text in store.sql("select sample_id, prompt from samples").iter_rows():
        seen = []
        hooks = [point.register_forward_pre_hook(lambda _, args: seen.append(args[0][0])) for point in points]
        encoded = model.encode(Prompt(name, text, source.image(name)))
        with torch.no_grad():
            model.module(**model.collate([encoded]).inputs, use_cache=False)
        for hook in hooks:
            hook.remove()
        rows = store.sql(f"from rows where sample_id = '{name}' and position is not null order by row_id")
        assert rows.height == 21
        for layer in store.layers:
            expected = seen[layer][rows["position"].to_list()].float().numpy()
            np.testing.assert_array_equal(store.residual(rows, layer), expected)
        mean = store.sql(f"from rows where sample_id = '{name}' and role = 'image-mean'")
        at = encoded.layout.image.tolist()
        expected = seen[3][at].float().mean(0).bfloat16().float().numpy()
        np.testing.assert_allclose(store.residual(mean, 3)[0], expected, rtol=2**-7)


def test_float32_is_stored_exactly(tmp_path):
    extract(tmp_path / "s", "capture.batch_size=1", "samples.limit=1", "model.dtype=float32")
    store = actstore.open(tmp_path / "s")
    assert store.header.dtype == "float32"
    model = load(str(MODELS["digits-fusion"]), dtype="float32")
    seen = []
    hook = model.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    source = recipe.load("digits-fusion").samples.samples()
    encoded = model.encode(Prompt("digit-0000", "<image>this digit is a", source.image("digit-0000")))
    with torch.no_grad():
        model.module(**model.collate([encoded]).inputs)
    hook.remove()
    rows = store.sql("from rows where role = 'last'")
    np.testing.assert_array_equal(store.residual(rows, 6)[0], seen[0][-1].numpy())


def test_some_layers_and_no_next_token(tmp_path, whole):
    extract(tmp_path / "s", "capture.layers=[2, 4]", "capture.next_token=false")
    few, all_ = actstore.open(tmp_path / "s"), actstore.open(whole)
    rows = few.sql("from rows where role = 'eoi' order by row_id")
    np.testing.assert_array_equal(few.residual(rows, 4), all_.residual(rows, 4))
    said = samples(tmp_path / "s").select("next_token", "top_tokens", "top_probabilities", "answer_probabilities")
    assert said.null_count().row(0) == (24,) * 4
    with pytest.raises(ActstoreError, match="layer 3 is not in this store; it has 2, 4"):
        few.residual(rows, 3)


def test_the_next_token_is_the_models_own(whole):
    said = samples(whole)
    model = load(str(MODELS["digits-fusion"]), dtype="bfloat16")
    source = recipe.load("digits-fusion").samples.samples()
    for name, token in said.select("sample_id", "next_token_id").head(4).iter_rows():
        encoded = model.encode(Prompt(name, "<image>this digit is a", source.image(name)))
        assert int(model(model.collate([encoded])).logits[0, -1].argmax()) == token
    assert said["next_token_probability"].is_between(0, 1).all()


def test_what_the_model_says_next(tmp_path):
    words = ["seven", "zero", "digit"]
    extract(
        tmp_path / "s", "samples.limit=3", "capture.batch_size=1", "model.dtype=float32", f"capture.answers={words}"
    )
    store = actstore.open(tmp_path / "s")
    model = load(str(MODELS["digits-fusion"]), dtype="float32")
    source = recipe.load("digits-fusion").samples.samples()
    wanted = model.tokenizer.convert_tokens_to_ids(words)
    for row in samples(tmp_path / "s").iter_rows(named=True):
        encoded = model.encode(Prompt(row["sample_id"], row["prompt"], source.image(row["image"])))
        expected = model(model.collate([encoded])).logits[0, -1].softmax(-1)
        order = expected.argsort(descending=True)[:10]
        assert row["top_tokens"] == [model.tokenizer.decode([i]) for i in order.tolist()]
        np.testing.assert_allclose(row["top_probabilities"], expected[order].numpy(), rtol=1e-5)
        np.testing.assert_allclose(row["answer_probabilities"], expected[wanted].numpy(), rtol=1e-5)
        assert (row["top_tokens"][0], row["top_probabilities"][0]) == (row["next_token"], row["next_token_probability"])
    assert store.sql("select max(answer_probabilities[2]) > 0.5 from samples where label = 'zero'").item()
    assert not {"top_tokens", "answer_probabilities"} & set(store.sql("from rows limit 1").columns)


def test_estimate_writes_nothing(tmp_path):
    cost = estimate(Run(recipe.load("digits-fusion", ["samples.limit=40", "capture.batch_size=8"])))
    assert cost.samples == 40
    assert cost.rows["image"] == 640
    assert cost.bytes["eoi"] == 40 * 7 * 64 * 2
    assert cost.seconds > 0
    assert not list(tmp_path.iterdir())


def test_estimate_says_what_each_head_for_itself_would_cost(tmp_path, capfd):
    """As many bytes as such a run then has."""
    changes = [*SMALL, "samples.limit=4", "capture.attention=['eoi', 'last-image']", "capture.mass=true"]
    mean = estimate(Run(recipe.load("digits-fusion", changes)))
    every = estimate(Run(recipe.load("digits-fusion", [*changes, "capture.per_head=true"])))
    columns = [f"attention to {role}" for role in ("eoi", "last-image")]
    assert mean.per_head == every.per_head == sum(every.bytes[name] for name in columns)
    assert mean.per_head == 4 * sum(mean.bytes[name] for name in columns)  # its heads
    assert every.bytes["attention to mass"] == mean.bytes["attention to mass"]
    sets = [word for change in changes for word in ("--set", change)]
    assert main.run(["extract", "digits-fusion", str(tmp_path / "s"), "--estimate", *sets]) == 0
    said = f"attention columns with per_head = true: {mean.per_head / 1e6:.2f} MB"
    assert said in capfd.readouterr().err


def test_a_changed_recipe_is_refused_with_the_difference(whole):
    with pytest.raises(PlanError, match=r"model.dtype: 'bfloat16' in the store, 'float32' now"):
        extract(whole, "model.dtype=float32")
    with pytest.raises(
        PlanError, match=r"another folder, since its samples .*\n  samples.limit: 24 in the store, 25 now"
    ):
        extract(whole, "samples.limit=25")


@pytest.mark.parametrize(
    ("option", "change", "size"), [(None, "batch_size=2", 2), (3, "batch_size=2", 3), (None, "batch_size=4", 1)]
)
def test_a_run_goes_on_with_another_batch_size(tmp_path, monkeypatch, option, change, size):
    """In the recipe or on the command line; without either with that of the run before."""
    changes = [*SMALL, "samples.limit=8", "model.dtype=float32"]
    work = Run._work
    monkeypatch.setattr(
        Run, "_work", lambda self, store, extractor, todo, bar: work(self, store, extractor, todo[:1], bar)
    )
    monkeypatch.setattr(Run, "_free", lambda _, store, __: [] if len(store.remaining) < 2 else store.remaining)
    Run(recipe.load("digits-fusion", changes), batch_size=1).extract(tmp_path / "s")
    monkeypatch.undo()
    Run(recipe.load("digits-fusion", [*changes, f"capture.{change}"]), batch_size=option).extract(tmp_path / "s")
    store = actstore.open(tmp_path / "s")
    assert [commit.by["batch_size"] for commit in store.commits] == [1, size]
    assert store.sql("select count(distinct sample_id) from samples").item() == 8


def test_changed_weights_are_refused(tmp_path):
    folder = shutil.copytree(MODELS["digits-fusion"], tmp_path / "model")
    change = f"model.path={folder}"
    extract(tmp_path / "s", change, "samples.limit=4")
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(PlanError, match="weights_sha256"):
        extract(tmp_path / "s", change, "samples.limit=4")


@pytest.fixture
def pictures(tmp_path):
    """A folder of ten readable images, one that is none, and one that is cut."""
    folder = tmp_path / "pictures" / "cat"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(10):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3)).astype(np.uint8)).save(folder / f"{i}.png")
    (folder / "text.png").write_text("no image")
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:100])
    return folder.parent


def test_an_unreadable_image_is_a_failed_row_among_good_ones(pictures, tmp_path, capfd):
    keys = [f"samples={{source='imagefolder', path='{pictures}'}}", "capture.part_samples=5", "capture.batch_size=2"]
    command = ["extract", "digits-fusion", str(tmp_path / "s"), *(word for key in keys for word in ("--set", key))]
    assert main.run(command) == 3  # done in part
    said = capfd.readouterr().err.splitlines()
    assert any("12 samples (2 failed)" in line for line in said)
    assert main.run(command) == 0  # nothing is left to do
    store = actstore.open(tmp_path / "s")
    failed = store.sql("select sample_id, error from samples where status = 'failed' order by sample_id")
    assert failed["sample_id"].to_list() == ["cat/cut.png", "cat/text.png"]
    assert "cannot identify image file" in failed["error"][1]
    assert store.sql("select count(distinct sample_id) from rows").item() == 10
    assert [line for line in said if "cat/text.png failed" in line]
    assert verify.run(verify.steps(tmp_path / "s")) == []


def test_nothing_but_unreadable_images(pictures, tmp_path):
    for path in pictures.glob("*/[0-9].png"):
        path.unlink()
    with pytest.raises(RecipeError, match="none of the first 2 samples can be run; the first: image cat/cut.png"):
        Run(recipe.load("digits-fusion", [f"samples={{source='imagefolder', path='{pictures}'}}"])).extract(
            tmp_path / "s"
        )
    assert not (tmp_path / "s").exists()


def test_both_orders_and_text_alone(tmp_path):
    (tmp_path / "t.csv").write_text(
        "sample_id,image,prompt\na,digit,<image>this digit is a\n"
        "b,digit,this is a seven . <image>\nc,,this digit is a\n"
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "digit", format="png")
    keys = [f"samples={{source='table', path='{tmp_path / 't.csv'}'}}"]
    made = recipe.load("digits-fusion", keys)
    made = made.model_copy(update={"prompt": recipe.PromptSection()})
    Run(made).extract(tmp_path / "s")
    found = samples(tmp_path / "s").select("sample_id", "prompt_order", "status", "length", "image_start", "eoi")
    assert found["prompt_order"].to_list() == ["image-text", "text-image", "text"]
    assert found["status"].to_list() == ["ok"] * 3
    assert found["eoi"].to_list()[2] is None
    roles = dict(
        actstore.open(tmp_path / "s")
        .sql("select sample_id, count(*) from rows where role = 'eoi' group by all")
        .iter_rows()
    )
    assert roles == {"a": 1, "b": 1}


def test_a_role_the_model_has_not_is_said_and_not_stored(tmp_path):
    said = []
    keys = [*SMALL, "samples.limit=4", "capture.roles=['eoi', 'eol']"]
    Run(recipe.load("digits-fusion", keys), say=said.append).extract(tmp_path / "s")
    assert actstore.open(tmp_path / "s").roles == ["eoi"]
    assert said[0] == "role 'eol': ChameleonForConditionalGeneration has none here; nothing is stored for it"
    with pytest.raises(RecipeError, match="none of the roles eol exists in ChameleonForConditionalGeneration"):
        extract(tmp_path / "t", "capture.roles=['eol']")
    assert not (tmp_path / "t").exists()


def test_attention_to_a_role_the_model_has_not_is_said_and_not_stored(tmp_path, capfd):
    """digits-mapped has no end of image; a text alone has no image whose keys could be given mass."""
    table = "samples={source='table', path='%s'}" % (tmp_path / "prompts.jsonl")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "this digit is a"}\n{"prompt": "a"}')
    kept = ("capture.roles=['last']", "capture.attention=['eoi', 'last']", "capture.mass=true")
    for name, changes, lost in (
        ("s", ["samples.limit=4"], ["to 'eoi'"]),
        ("t", [table, "prompt={}"], ["to 'eoi'", "mass"]),
    ):
        words = [word for change in (*changes, *kept) for word in ("--set", change)]
        assert main.run(["extract", "digits-mapped", str(tmp_path / name), "--device", "cpu", *words]) == 0
        said = capfd.readouterr().err
        for what in lost:
            assert f"attention {what}: LlavaForConditionalGeneration has none here; nothing is stored for it" in said
        arrays = actstore.open(tmp_path / name).commits[0].arrays
        assert {array for array in arrays if array.startswith("attention/")} == (
            {"attention/last", "attention/mass"} if name == "s" else {"attention/last"}
        )


def test_a_layer_out_of_range(tmp_path):
    with pytest.raises(RecipeError, match=r"layer 7 is out of range: this model has 0..6"):
        extract(tmp_path / "s", "capture.layers=[0, 7]")


def test_ctrl_c_drops_the_batch_in_hand_and_resume_goes_on(tmp_path, whole, monkeypatch):
    content, calls = Extractor.content, []

    def interrupted(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 4:  # one probe, two parts
            raise KeyboardInterrupt
        return content(self, *arguments, **options)

    monkeypatch.setattr(Extractor, "content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extract(tmp_path / "s")
    assert [commit.batches for commit in actstore.open(tmp_path / "s").commits] == [(0,), (1,)]
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 2
    monkeypatch.undo()
    assert extract(tmp_path / "s").samples == 16
    assert vectors(tmp_path / "s") == vectors(whole)


def test_an_error_of_the_writer_stops_the_run_and_harms_nothing(tmp_path, whole, monkeypatch):
    write, calls = actstore.Store.write, []

    def failing(self, number, **content):
        calls.append(number)
        if len(calls) == 3:
            content["draft"].discard()
            raise ActstoreError("disk full")
        return write(self, number, **content)

    monkeypatch.setattr(actstore.Store, "write", failing)
    with pytest.raises(ActstoreError, match="disk full"):
        extract(tmp_path / "s")
    monkeypatch.undo()
    assert verify.run(verify.steps(tmp_path / "s")) == []
    extract(tmp_path / "s")
    assert vectors(tmp_path / "s") == vectors(whole)


def test_too_little_memory_halves_the_batch(tmp_path, whole, monkeypatch):
    begin, sizes = extractor.begin, []

    def small(model, batch, *arguments, **options):
        sizes.append(len(batch))
        if len(batch) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return begin(model, batch, *arguments, **options)

    monkeypatch.setattr(extractor, "begin", small)
    said, changes = [], ["samples.limit=16", "capture.part_samples=16"]
    run = Run(recipe.load("digits-fusion", [*SMALL, *changes]), say=said.append)
    run.extract(tmp_path / "s")
    tried = [4, 2, 2, 4]  # by the probe, then by the run
    assert sizes[: len(tried)] == tried
    assert sizes[len(tried) :].count(4) == 1  # launched before the first was known to be too large
    halved = "not enough memory for 4 samples at once; going on with 2"
    assert [line for line in said if "memory" in line] == [halved, halved]
    assert samples(tmp_path / "s")["status"].to_list() == ["ok"] * 16


def test_what_did_not_fit_is_let_go_of_before_less_is_tried(tmp_path):
    run, held, alive = Run(recipe.load("digits-fusion", [*SMALL, "samples.limit=8"])), [], []

    def too_much(_, args):
        alive.append(sum(tensor() is not None for tensor in held))
        if len(args[0]) > 1:
            held.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError("out of memory")

    run.model.layers[2].mlp.register_forward_pre_hook(too_much)
    run.extract(tmp_path / "s")
    assert len(held) >= 2  # batches of 4 and of 2
    assert not any(alive)
    assert samples(tmp_path / "s")["status"].to_list() == ["ok"] * 8


def test_too_little_memory_for_one_sample_says_what_to_do(tmp_path, monkeypatch):
    def none(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(extractor, "begin", none)
    with pytest.raises(ActstoreError, match=r"the first: not enough memory \(\d+ tokens, alone\): .*device_map"):
        Run(recipe.load("digits-fusion", [*SMALL, "samples.limit=8"])).extract(tmp_path / "s")
    assert not list(tmp_path.iterdir())


def test_three_racing_processes_write_each_sample_once(tmp_path, whole):
    children = [start(tmp_path / "s") for _ in range(3)]
    for child in children:
        child.join(120)
        assert child.exitcode == 0
    extract(tmp_path / "s")  # what another was still writing when one ended
    assert vectors(tmp_path / "s") == vectors(whole)
    assert samples(tmp_path / "s").height == 24
    assert len(list((tmp_path / "s" / "parts").iterdir())) == 6
    assert orphans.find(tmp_path / "s", older_than=0) == []


@pytest.mark.parametrize(
    ("kills", "conditions"),
    [(2, "['eoi-knockout']"), pytest.param(20, "[]", marks=pytest.mark.slow)],
)
def test_kill_9_at_random_instants_then_resume(tmp_path, kills, conditions):
    """Every kill falls while the killed process extracts: after it has begun a part of its own."""
    chance = random.Random(kills)
    each = 24 if conditions == "[]" else 12  # so that there are as many rows of samples
    changes = f"samples.limit={each * kills}", f"conditions={conditions}"
    extract(tmp_path / "whole", *changes)
    stores, killed = [tmp_path / "s0"], 0
    while killed < kills:
        path = stores[-1]
        before = set(path.glob("parts/*"))
        child = start(path, *changes)
        while child.is_alive() and set(path.glob("parts/*")) <= before:
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.2))
        child.kill()
        child.join()
        if child.exitcode == -signal.SIGKILL:
            killed += 1
        else:  # it had finished: the next kills fall on another store
            stores.append(tmp_path / f"s{len(stores)}")
    for path in stores:
        extract(path, *changes)
        assert samples(path)["sample_id"].to_list() == samples(tmp_path / "whole")["sample_id"].to_list()
        assert vectors(path) == vectors(tmp_path / "whole")
        assert verify.run(verify.steps(path)) == []
        for orphan in orphans.find(path, older_than=0):
            orphans.remove(orphan)
        assert len(list((path / "parts").iterdir())) == 6 * kills
        assert vectors(path) == vectors(tmp_path / "whole")
