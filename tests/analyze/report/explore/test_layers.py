"""What the explorer says at each layer: clusters as colour, the neighbours of each value, words of the logit lens."""

import json
import re

import numpy as np
import polars as pl
import pytest

import actstore
import besides
import browsing
import lenses
import looking
from actstore_analyze.cluster.measure import homogeneity
from actstore_analyze.neighbors import nearest
from actstore_analyze.report.explore import kept, page
from actstore_analyze.report.explore.resources import MissingError, Resources
from browsing import AROUND, READY, Seen
from served import TOKEN, serving

LAYERS = (0, 2, 4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("layers")


@pytest.fixture(scope="module")
def classes(folder):
    """Forty samples, whose classes lie apart at the last layer."""
    return besides.make(folder / "classes", layers=LAYERS, depth=4, samples=range(40), roles=("last",))


@pytest.fixture(scope="module")
def store(folder):
    return looking.make(folder / "s")


def test_clusters_are_those_that_cluster_counts_and_scores(classes):
    """With the parameters of the call that is saved, each named and coloured by what most of its points are."""
    before = Resources([classes]).get("tiny/last/none/clusters/4")
    assert before["how"] == "density peaks: Z = 1.2, k = 15, normalised"
    found = classes.measure("cluster", roles=["last"], k=4, z=0.5, min_size=2, metric="euclidean", no_interval=True)
    resources = Resources([classes], "from rows where label is not null")
    truth = resources.get("tiny/last/none/table")["columns"]["label"]
    for row in found.table.iter_rows(named=True):
        clusters = resources.get(f"tiny/last/none/clusters/{row['layer']}")
        codes = np.array(clusters["codes"])
        assert clusters["how"] == "density peaks: Z = 0.5, k = 4, euclidean"
        assert len(clusters["names"]) == len({*codes.tolist()}) == row["clusters"]
        labels = np.array(truth["codes"])
        score = homogeneity(labels, codes, min_size=1).homogeneity
        assert score == pytest.approx(row["homogeneity_all"])
        for code, name in enumerate(clusters["names"]):
            own = labels[codes == code]
            most = np.bincount(own).argmax()
            share = f"{100 * (own == most).mean():.0f} %"
            assert name == f"{code + 1}: {share} {truth['names'][most]} of {len(own)}"
        sizes = np.bincount(codes)
        assert (np.diff(sizes) <= 0).all()
    last = resources.get("tiny/last/none/clusters/4")
    assert {re.search("cat|dog|owl", name)[0] for name in last["names"][:3]} == {"cat", "dog", "owl"}
    assert [truth["names"][colour] for colour in last["palette"][:3]] == [
        re.search("cat|dog|owl", name)[0] for name in last["names"][:3]
    ]


def test_points_that_are_one_have_no_clusters_and_that_is_said(store):
    found = Resources([store]).get("tiny/eoi/none/clusters/0")
    assert (found["names"], {*found["codes"]}, found["none"]) == (["no cluster"], {0}, 0)
    assert found["how"].startswith("no clusters: ")


def test_words_are_those_of_the_lens(store):
    """Computed here anew, at a point and at each image token of its sample."""
    resources, lens = Resources([store]), lenses.made()

    def likeliest(x):
        normed = x.astype(float) / np.sqrt(np.mean(x.astype(float) ** 2) + 0.1) * lens.weight + lens.shift
        logits = 1.5 * (lens.unembedding.astype(float) @ normed + lens.bias)
        p = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        return [(looking.VOCABULARY[int(i)], float(p[i])) for i in np.argsort(-p)]

    for layer in looking.LAYERS:
        own = resources.get(f"tiny/last/none/lens/{layer}/5")
        for (word, p), (expected, q) in zip(own, likeliest(looking.vectors("last")[layer, 5]), strict=False):
            assert (word, p) == (expected, pytest.approx(q, abs=1e-4))
        assert len(own) == 5
        cells = resources.get(f"tiny/words/{layer}/5")
        for k, (word, p) in enumerate(cells):
            expected, q = likeliest(looking.vectors("image")[layer, 20 + k])[0]
            assert (word, p) == (expected, pytest.approx(q, abs=1e-4))
        assert len(cells) == 4
    assert resources.get("tiny/words/1/23") == []  # it failed
    for path in ("tiny/words/7/5", "tiny/words/1/24", "tiny/words/1", "tiny/last/none/lens/9/5"):
        with pytest.raises(MissingError):
            resources.get(path)


def test_a_file_holds_clusters_and_words_or_says_that_they_are_left_out(store, monkeypatch):
    resources = Resources([store], roles=["eoi"])

    def held():
        text = page.saved(resources, page.choices(resources))
        return json.loads(re.search(r'id="kept">(.*?)</script>', text, re.DOTALL)[1])["kept"]

    found = held()
    for path in ("tiny/eoi/none/clusters/2", "tiny/eoi/none/lens/2/22", "tiny/words/2/22"):
        assert json.dumps(found[path]) == json.dumps(resources.get(path))
    assert found["tiny/sample/5"]["words"]
    monkeypatch.setattr(kept, "MOST_WORDS", 5 * 23 * 3)  # those of the points, and not of 92 image tokens
    found = held()
    assert (found["stores"][0]["lens"], "tiny/words/2/22" in found) == (True, True)
    monkeypatch.setattr(kept, "MOST_WORDS", 23 * 4 * 3 - 1)
    found = held()
    assert found["stores"][0]["lens"].startswith("left out of this file")
    assert not any("/lens/" in path or "/words/" in path for path in found)
    assert not found["tiny/sample/5"]["words"]


def test_the_view_that_is_sent_keeps_what_its_sql_chose(store):
    resources = Resources([store])
    state = {"store": "tiny", "role": "eoi", "condition": "none", "where": "label = 'cat' and split = 'test'"}
    text = page.saved(resources, [("tiny", "eoi", "none")], state=state)
    found = json.loads(re.search(r'id="kept">(.*?)</script>', text, re.DOTALL)[1])["kept"]
    assert found["tiny/eoi/none/where?label%20%3D%20'cat'%20and%20split%20%3D%20'test'"] == [18, 21]


# In the browser.


@pytest.fixture(scope="module")
def browser():
    with browsing.launched() as started:
        yield started


@pytest.fixture(scope="module")
def address(classes, store):
    with serving(Resources([classes, store])) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture
def opened(browser, address):
    """The explorer at a state; nothing goes wrong in it, and it asks nobody else."""
    found = []

    def go(state):
        found.append(Seen(browser, (address, "data:", "blob:")))
        found[-1].page.goto(f"{address}?token={TOKEN}#{state}")
        found[-1].page.wait_for_selector(READY)
        return found[-1]

    yield go
    for seen in found:
        seen.page.context.close()
        assert (seen.errors, seen.elsewhere) == ([], [])


def shares(chosen, layer):
    """Of each class, the mean share of a point's 14 nearest, as far as they are chosen, that have it, too; of the
    nearest of these as many as it has others."""
    labels = [None if i % 7 == 6 else besides.CLASSES[i % 3] for i in range(40)]
    near = nearest(besides.vectors(range(40), "last", "none", LAYERS)[LAYERS.index(layer)], 14).indices
    found = {}
    for i in chosen:
        others = sum(labels[j] == labels[i] for j in chosen) - 1
        known = [labels[j] == labels[i] for j in near[i] if j in chosen][:others]
        if labels[i] is not None and known:
            found.setdefault(labels[i], []).append(np.mean(known))
    return {name: np.mean(values) for name, values in found.items()}


def counted(page):
    """The same as the page says it: by class, of each layer."""
    lines = page.locator(".groups svg[aria-label]").evaluate_all("all => all.map((one) => one.ariaLabel)")
    return {
        name: {int(layer): float(share) for layer, share in re.findall(r"layer (\d+) ([\d.]+)", said)}
        for name, _, said in (line.partition(": ") for line in lines)
    }


def test_it_is_seen_at_which_layer_classes_part(opened):
    seen = opened("store=tiny+(classes)&role=last&layer=4")
    page = seen.page
    page.wait_for_selector(".groups .lines")
    found = counted(page)
    assert [*found] == ["cat", "dog", "owl"]  # not those without a label
    assert page.locator(".entry").all_inner_texts() == ["cat", "dog", "none", "owl"]
    for layer in LAYERS:
        expected = shares(range(40), layer)
        assert {name: found[name][layer] for name in found} == pytest.approx(expected, abs=0.006)
    page.fill("#where", "label in ('cat', 'dog') and size < 30")
    page.press("#where", "Enter")
    page.wait_for_selector(".groups p >> text=nearest that are shown")
    assert page.locator(".entry").all_inner_texts() == ["cat", "dog"]
    chosen = [i for i in range(30) if i % 3 < 2 and i % 7 != 6]
    found = counted(page)
    for layer in LAYERS:
        expected = shares(chosen, layer)
        assert {name: found[name][layer] for name in found} == pytest.approx(expected, abs=0.006)
    seen.click(4, "s04")
    page.wait_for_selector("#card h3 >> text=neighbours with its label, by layer (k = 10, as many as there are others)")
    page.wait_for_selector("#card svg polyline")
    assert page.locator(".groups").count() == 0
    drawn = page.locator("#card svg[aria-label] title").all_text_contents()
    near = [nearest(besides.vectors(range(40), "last", "none", LAYERS)[at], 10).indices[4] for at in range(3)]
    expected = [np.mean([j % 3 == 1 and j % 7 != 6 for j in one]) for one in near]
    assert [float(one.rpartition(" ")[2]) for one in drawn] == pytest.approx(expected, abs=0.006)


@pytest.mark.slow
def test_tokens_of_one_sample_are_not_counted_as_its_neighbours(opened):
    page = opened("store=tiny+(s)&role=image&layer=2&colour=label").page
    page.wait_for_selector(".groups p >> text=nearest of other samples")
    n = 4 * (looking.N - 1)
    classes, samples = np.repeat(np.arange(looking.N - 1) % 3, 4), np.repeat(np.arange(looking.N - 1), 4)
    found = counted(page)
    for layer in looking.LAYERS:
        near = nearest(looking.vectors("image")[layer, :n], 14).indices
        for code, name in enumerate(looking.LABELS):
            means = []
            for i in np.flatnonzero(classes == code):
                others = [j for j in near[i] if samples[j] != samples[i]]
                means += [np.mean(classes[others] == code)] if others else []
            assert found[name][layer] == pytest.approx(np.mean(means), abs=0.006)


@pytest.mark.slow
def test_clusters_colour_the_points_and_can_be_hidden(opened, classes):
    page = opened("store=tiny+(classes)&role=last&layer=4").page
    page.select_option("#colour", label="clusters at this layer")
    page.wait_for_selector(".entry >> text=1: ")
    clusters = Resources([classes]).get("tiny/last/none/clusters/4")
    assert page.locator(".entry").all_inner_texts() == clusters["names"]
    assert clusters["how"] in page.inner_text(".note")
    page.locator(".entry").first.click()
    page.wait_for_function("explorer.first.kept.length < 40")
    assert page.evaluate("explorer.first.kept") == [i for i, code in enumerate(clusters["codes"]) if code]
    again = opened(page.url.partition("#")[2]).page
    assert again.locator(".entry").all_inner_texts() == clusters["names"]
    assert again.evaluate("explorer.first.kept") == page.evaluate("explorer.first.kept")
    page.focus(".plot")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("explorer.first.kept.length === 40")  # other clusters, none hidden
    before = Resources([classes]).get("tiny/last/none/clusters/2")
    page.wait_for_function(f"document.querySelector('.legend').children.length === {len(before['names'])}")
    assert page.locator(".entry").all_inner_texts() == before["names"]


@pytest.mark.slow
def test_the_card_says_the_words_at_the_point_and_at_each_token_of_its_picture(opened, store):
    seen = opened("store=tiny+(s)&role=last&layer=1")
    page, resources = seen.page, Resources([store])
    assert page.evaluate("explorer.first.title") == "tiny (s)"
    seen.click(5, "s05")
    page.wait_for_selector(".words span")
    words = [word for word, _ in resources.get("tiny/words/1/5")]
    assert page.locator(".words span").all_inner_texts() == words
    own = [word for word, _ in resources.get("tiny/last/none/lens/1/5")]
    below = page.locator("#card h3", has_text="logit lens at layer 1")
    assert below.locator("xpath=following-sibling::div[1]").locator("span:not(.number)").all_inner_texts() == own
    page.locator(".words span >> nth=2").hover()
    assert [value > 0 for value in seen.alpha()] == [False, False, True, False]
    page.mouse.move(5, 5)
    page.wait_for_function("true")
    assert seen.alpha().index(214) == (5 + 1) % 4


MANY = 24  # labels, of three samples each


@pytest.fixture(scope="module")
def many(folder):
    """Samples whose nearest are those of their label."""
    names, layers = [f"s{i:02}" for i in range(3 * MANY)], (0, 1)
    labels = [f"label {i % MANY:02}" for i in range(3 * MANY)]
    plan = pl.DataFrame({"sample_id": names, "label": labels})
    made = actstore.create(folder / "many", plan=plan, layers=layers, d_model=MANY, dtype="float32", run={})
    x = np.eye(MANY)[np.arange(3 * MANY) % MANY] * 9 + np.random.default_rng(0).standard_normal((2, 3 * MANY, MANY))
    made.write(
        0,
        samples=plan.select("sample_id", status=pl.lit("ok")),
        rows=plan.select("sample_id", role=pl.lit("last")),
        residual={"last": x.astype(np.float32)},
    )
    return actstore.open(folder / "many")


def test_of_many_values_each_is_counted_by_itself_though_the_last_share_a_colour(browser, many):
    column = Resources([many]).get("many/last/none/table")["columns"]["label"]
    assert [column["names"][code] for code in column["codes"]] == many.sql("from rows order by row_id")[
        "label"
    ].to_list()
    assert column["few"] == 19
    with serving(Resources([many])) as port:
        own = f"http://127.0.0.1:{port}/"
        seen = Seen(browser, (own, "data:", "blob:"))
        page = seen.page
        page.goto(f"{own}?token={TOKEN}#layer=1")
        page.wait_for_selector(READY)
        page.wait_for_selector(".groups p >> text=the 5 rarest values are left out")
        assert page.locator(".groups .line .name").count() == 19
        assert page.locator(".entry").all_inner_texts()[-2:] == [column["names"][18], "5 others"]
        last = [i for i, code in enumerate(column["codes"]) if code >= 19]
        assert {page.evaluate(f"colourOf(explorer.first.column(), {i})") for i in last} == {"#888888"}
        page.locator(".entry").last.click()
        assert page.evaluate("explorer.first.kept") == [i for i in range(3 * MANY) if i not in last]
        page.locator(".entry").last.click()
        near = nearest(many.residual(many.sql("from rows order by row_id"), 1), 14).indices[last[0]]
        share = np.mean([column["codes"][j] == column["codes"][last[0]] for j in near[:2]])
        seen.click(last[0], f"s{last[0]:02}")
        page.wait_for_selector(
            "#card h3 >> text=neighbours with its label, by layer (k = 2, as many as there are others)"
        )
        page.wait_for_selector("#card svg polyline", state="attached")  # it is flat
        drawn = page.locator("#card svg[aria-label] title").last.text_content()
        assert (share, float(drawn.rpartition(" ")[2])) == (1.0, 1.0)
        assert page.locator("#card .thumb span").first.inner_text() == column["names"][column["codes"][last[0]]]
        chosen = seen.lasso(AROUND)
        counts = page.locator("#selection .number").all_inner_texts()
        assert len(counts) > 8
        assert sum(map(int, counts)) == len(chosen)
        assert (seen.errors, seen.elsewhere) == ([], [])
        page.context.close()
