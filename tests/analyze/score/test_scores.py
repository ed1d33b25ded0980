"""Scores of answers and captions: the official evaluators' numbers, string by string."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_fscore_support

from actstore.errors import ActstoreError
from actstore_analyze.score import (
    cider,
    cider_per_image,
    gqa_accuracy,
    normalised,
    pope,
    ptb_tokens,
    vqa_accuracy,
    vqa_of_all,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "scores"
VQA = json.loads((GOLDEN / "vqa.json").read_text())
CIDER = json.loads((GOLDEN / "cider.json").read_text())


@pytest.mark.parametrize("case", VQA["cases"], ids=lambda case: repr(case["answer"]))
def test_vqa_golden(case):
    assert normalised(case["answer"]) == case["normalised_answer"]["final"]
    assert [normalised(answer) for answer in case["gts"]] == case["normalised_gts"]
    assert vqa_accuracy(case["answer"], case["gts"]) == pytest.approx(case["accuracy"], abs=1e-12)


def test_vqa_golden_mean():
    mean = np.mean([vqa_accuracy(case["answer"], case["gts"]) for case in VQA["cases"]])
    assert mean == pytest.approx(VQA["mean_accuracy"], abs=1e-12)


@pytest.mark.parametrize(("n_same", "expected"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_vqa_accuracy_by_number_of_annotators(n_same, expected):
    assert vqa_accuracy("cat", ["cat"] * n_same + ["dog"] * (10 - n_same)) == pytest.approx(expected)


@pytest.mark.parametrize(("n_same", "expected"), [(0, 0), (1, 1 / 3), (2, 2 / 3), (3, 1), (4, 1), (10, 1)])
def test_vqa_of_all_by_number_of_annotators(n_same, expected):
    assert vqa_of_all("Cat.", ["cat"] * n_same + ["dog"] * (10 - n_same)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Im", "im"),
        ("y'alld've", "y'all'd've"),
        ("somebody'd", "somebodyd"),
        ("twas", "'twas"),
        ("1,000 - 2", "1000 2"),
        ("1,000/2", "10002"),
        ("3.5. ok.", "3.5 ok"),
        ("it's 50% of $3", "it's 50% of $3"),
        ("a\tTHE an", ""),
    ],
)
def test_vqa_normalisation(answer, expected):
    assert normalised(answer) == expected


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30))
def test_vqa_normalisation_leaves_single_spaces(answer):
    words = normalised(answer)
    assert words == " ".join(words.split())


@pytest.mark.parametrize(("variant", "key"), [("plain", "author_plain_cider"), ("d", "author_cider_d")])
@pytest.mark.parametrize("tokens", ["raw", "ptb"])
def test_cider_golden(tokens, variant, key):
    if tokens == "raw":
        candidates, references = zip(*((case["candidate"], case["references"]) for case in CIDER["cases"]), strict=True)
    else:
        candidates, references = CIDER["ptb_tokens"]["candidates"], CIDER["ptb_tokens"]["references"]
    expected = CIDER[tokens][key]
    per_image = cider_per_image(candidates, references, variant=variant)
    np.testing.assert_allclose(per_image, expected["per_image"], rtol=0, atol=1e-12)
    assert cider(candidates, references, variant=variant) == pytest.approx(expected["mean"], abs=1e-12)


@pytest.mark.parametrize(("variant", "key"), [("plain", "author_plain_cider"), ("d", "author_cider_d")])
def test_cider_tokenises_as_the_golden(variant, key):
    """The golden's tokens are Stanford's, by pycocoevalcap 1.2; these are ours of the raw captions."""
    candidates, references = zip(*((case["candidate"], case["references"]) for case in CIDER["cases"]), strict=True)
    assert [ptb_tokens(text) for text in candidates] == CIDER["ptb_tokens"]["candidates"]
    assert [[ptb_tokens(text) for text in texts] for texts in references] == CIDER["ptb_tokens"]["references"]
    found = cider_per_image(candidates, references, variant=variant, tokens="ptb")
    np.testing.assert_allclose(found, CIDER["ptb"][key]["per_image"], rtol=0, atol=1e-12)


# What pycocoevalcap 1.2 made of them, with CoreNLP 3.4.1.
STANFORD = {
    "A man runs. He falls down.": "a man runs he falls down",
    "A man (in red) is standing; he's holding a \"sign\" that says 'STOP'.": (
        "a man -lrb- in red -rrb- is standing he 's holding a sign that says stop"
    ),
    "The dog isn't running, it's sleeping...": "the dog is n't running it 's sleeping",
    "Two people's umbrellas - one red, one blue -- are open.": "two people 's umbrellas one red one blue are open",
    "A black-and-white cat sits on the t-shirt.": "a black-and-white cat sits on the t-shirt",
    "It costs $3.50 for 1,000 apples & 50% off!": "it costs $ 3.50 for 1,000 apples & 50 % off",
    "Mr. Smith plays tennis at 3:30 p.m. in the U.S. today.": "mr. smith plays tennis at 3:30 p.m. in the u.s. today",
    "don't can't won't I'm you're gonna cannot": "do n't ca n't wo n't i 'm you 're gon na can not",
    "woman's children’s “quoted” text – dash — em": "woman 's children 's quoted text dash em",
    "a stop sign, a street sign etc. on a pole": "a stop sign a street sign etc. on a pole",
}


@pytest.mark.parametrize("text", STANFORD)
def test_tokens_of_the_treebank(text):
    assert ptb_tokens(text) == STANFORD[text]


@pytest.mark.parametrize(("corpus", "n"), [("single_image_corpus", 1), ("first_two_images_corpus", 2)])
@pytest.mark.parametrize(("variant", "key"), [("plain", "author_plain_cider"), ("d", "pycocoevalcap_1.2")])
def test_cider_golden_of_small_corpora(corpus, n, variant, key):
    candidates, references = zip(*((case["candidate"], case["references"]) for case in CIDER["cases"][:n]), strict=True)
    expected = CIDER[corpus][key]["per_image"]
    np.testing.assert_allclose(cider_per_image(candidates, references, variant=variant), expected, rtol=0, atol=1e-12)


def vectors_of_ngrams(caption, vocabulary, references, length):
    """tf-idf over a whole vocabulary, as an array."""
    words = caption.split()
    counts = Counter(tuple(words[i : i + length]) for i in range(len(words) - length + 1))
    holding = [
        sum(any(f" {' '.join(ngram)} " in f" {caption} " for caption in captions) for captions in references)
        for ngram in vocabulary
    ]
    return np.array([counts[ngram] for ngram in vocabulary]) * np.log(len(references) / np.maximum(1, holding))


captions = st.lists(st.sampled_from("abcd"), max_size=7).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(captions, st.lists(captions, min_size=1, max_size=3)), min_size=1, max_size=4))
def test_cider_as_dense_vectors(images):
    candidates, references = map(list, zip(*images, strict=True))
    expected = []
    for candidate, own_references in images:
        similarities = []
        for reference in own_references:
            for length in range(1, 5):
                both = (candidate.split(), reference.split())
                vocabulary = sorted({tuple(w[i : i + length]) for w in both for i in range(len(w) - length + 1)})
                c, r = (vectors_of_ngrams(text, vocabulary, references, length) for text in (candidate, reference))
                norms = np.linalg.norm(c) * np.linalg.norm(r)
                similarities.append(c @ r / norms if norms else 0)
        expected.append(10 * np.mean(similarities))
    np.testing.assert_allclose(cider_per_image(candidates, references), expected, atol=1e-9)


def test_cider_d_resists_repetition_and_length():
    references = [["a red bus on a road"], ["two cats sleep"]]
    plain, repeated = (cider([said, "two cats sleep"], references, variant="d") for said in ("red bus", "red bus " * 8))
    assert repeated < plain
    assert cider(["a red bus on a road", "two cats sleep"], references, variant="d") < 10
    four_words = [["a red bus stops"], ["two small cats sleep"]]
    assert cider(["a red bus stops", "two small cats sleep"], four_words, variant="d") == pytest.approx(10)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no"])), min_size=1, max_size=40))
def test_pope_as_scikit_learn(pairs):
    answers, truths = map(list, zip(*pairs, strict=True))
    found = pope(answers, truths)
    precision, recall, f1, _ = precision_recall_fscore_support(
        truths, answers, labels=["yes"], average="macro", zero_division=0
    )
    assert (found.precision, found.recall, found.f1) == pytest.approx((precision, recall, f1))
    assert found.accuracy == pytest.approx(np.mean([a == t for a, t in pairs]))
    assert (found.yes, found.unclear) == (answers.count("yes") / len(pairs), 0)


def test_pope_counts_an_unclear_answer_as_wrong():
    found = pope([" YES ", "yes, it is", "no"], ["yes", "yes", "no"])
    assert (found.accuracy, found.precision, found.recall, found.unclear) == pytest.approx((2 / 3, 1, 0.5, 1 / 3))


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [("Dog", "dog", 1), (" dog. ", "dog", 1), ("t-shirt", "tshirt", 1), ("dogs", "dog", 0), ("the dog", "dog", 0)],
)
def test_gqa(answer, truth, right):
    assert gqa_accuracy([answer], [truth]) == right


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: vqa_accuracy("a", ["a"]), "1 annotators"),
        (lambda: cider([], []), "0 candidates for 0 images"),
        (lambda: cider(["a"], [["a"], ["b"]]), "1 candidates for 2 images"),
        (lambda: cider(["a", "b"], [["a"], []]), r"image 1 has no reference \(1 of 2"),
        (lambda: cider(["a"], [["a"]], variant="r"), "variant 'r' is not one of plain, d"),
        (lambda: pope(["yes"], ["yes", "no"]), "1 answers for 2 questions"),
        (lambda: pope(["yes"], ["maybe"]), "truth 0 is 'maybe'"),
        (lambda: gqa_accuracy([], []), "0 answers for 0 questions"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ActstoreError, match=message):
        call()
