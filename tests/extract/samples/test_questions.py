"""Images with questions: VQAv2, LLaVA's conversations and bench, POPE, GQA, MME."""

import json

import pytest

import layouts
from actstore_extract.samples import SamplesError
from sampling import source


def test_vqav2(tmp_path):
    found = source("vqav2", path=layouts.vqav2(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "262148000",
        "question_id": 262148000,
        "image_id": 262148,
        "question": "What is this?",
        "image": "val2014/COCO_val2014_000000262148.jpg",
        "answers": ["dog"] * 9 + ["cat"],
        "answer": "dog",
        "answer_type": "other",
        "question_type": "what is",
    }
    assert found.image(found.table["image"][0]).size == (9, 7)
    test = source("vqav2", path=tmp_path, split="test2015").samples()
    assert "answers" not in test.table.columns
    assert test.image("test2015/COCO_test2015_000000262144.jpg").size == (9, 7)


def test_llava(tmp_path):
    found = source("llava", path=layouts.llava(tmp_path)).samples()
    assert found.table.height == 6
    assert found.table.row(1, named=True) == {
        "sample_id": "000002/000000033471",
        "conversation_id": "000000033471",
        "question": "Is this a one?",
        "answer": "This is a one.",
        "turns": 4,
        "image": "coco/train2017/000000033471.jpg",
    }
    assert found.image("coco/train2017/000000033471.jpg").size == (9, 7)
    elsewhere = source("llava", path=tmp_path / "llava_v1_5_mix665k.json", images=tmp_path / "coco").samples()
    assert elsewhere.image("train2017/000000033471.jpg").size == (9, 7)


def test_llava_with_several_images(tmp_path):
    one = {"id": "1", "image": ["a.jpg", "b.jpg"], "conversations": layouts.spoken("<image><image>\nSame?", "No.")}
    (tmp_path / "m4.json").write_text(json.dumps([one, {**one, "image": "c.jpg"}]))
    found = source("llava", path=tmp_path / "m4.json").samples().table
    assert found.select("question", "image").rows() == [("Same?", ["a.jpg", "b.jpg"]), ("Same?", ["c.jpg"])]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conversations": []}, r"conversation 0 is not of LLaVA's releases .*: IndexError"),
        ({"conversations": [{"role": "user"}]}, r"conversation 0 is not of LLaVA's releases .*: KeyError: 'from'"),
        ({"image": None}, "has no conversation about an image"),
        ({"conversations": layouts.spoken("What?", None)}, r"conversation 0 .* \('What\?', None\) are not both texts"),
        ({"conversations": layouts.spoken(5, "A dog.")}, r"conversation 0 .* \(5, 'A dog.'\) are not both texts"),
    ],
)
def test_llava_says_which_conversation_is_not_as_it_should_be(tmp_path, change, message):
    path = layouts.llava(tmp_path)
    path.write_text(json.dumps([json.loads(path.read_text())[0] | change]))
    with pytest.raises(SamplesError, match=message):
        source("llava", path=path).samples()


def test_llava_without_an_id_has_none(tmp_path):
    path = layouts.llava(tmp_path)
    path.write_text(json.dumps([json.loads(path.read_text())[0] | {"id": one} for one in (*[None] * 101, "a", 7)]))
    assert source("llava", path=path).samples().table["conversation_id"].to_list() == [*[None] * 101, "a", "7"]


def test_pope(tmp_path):
    found = source("pope", path=layouts.pope(tmp_path)).samples()
    assert found.table["split"].to_list() == ["random"] * 2 + ["popular"] * 2 + ["adversarial"] * 2
    assert found.table.row(3, named=True) == {
        "sample_id": "popular/2",
        "image": "COCO_val2014_000000310197.jpg",
        "question": "Is there a popular dog?",
        "label": "no",
        "split": "popular",
    }
    assert found.image("COCO_val2014_000000310197.jpg").size == (9, 7)
    assert source("pope", path=tmp_path, split="random", images=tmp_path / "val2014").samples().table.height == 2
    assert found.notes == ()
    first = (tmp_path / "coco_pope_random.json").read_text().splitlines()
    (tmp_path / "coco_pope_random.json").write_text(first[0] + "\n")
    (note,) = source("pope", path=tmp_path).samples().notes
    assert "these are 2 popular, 2 adversarial, 1 random: scores of all are not those of others" in note
    assert source("pope", path=tmp_path, split="random").samples().notes == ()


def test_gqa(tmp_path):
    found = source("gqa", path=layouts.gqa(tmp_path)).samples()
    assert found.table.row(0, named=True) == {
        "sample_id": "201380000",
        "image": "images/n161313.jpg",
        "question": "What is this?",
        "answer": "dog",
        "question_type": "query",
        "semantic_type": "rel",
    }
    assert found.image("images/n161313.jpg").size == (9, 7)


def test_gqa_without_answers(tmp_path):
    """As its test split, and a question whose meaning has no type."""
    file = layouts.gqa(tmp_path) / "testdev_balanced_questions.json"
    questions = json.loads(file.read_text())
    bare = {"20138x": {"question": "What?", "imageId": "n161313"}, **questions}
    bare["201380000"]["types"]["semantic"] = None
    bare["20139x"] = {"question": "Who?", "imageId": "n161313", "answer": None, "types": None}
    (tmp_path / "test_questions.json").write_text(json.dumps(bare))
    found = source("gqa", path=tmp_path, split="test").samples().table
    assert found.rows()[0] == ("20138x", "images/n161313.jpg", "What?", None, None, None)
    assert found.rows()[1][3:] == ("dog", "query", None)
    assert found.rows()[-1] == ("20139x", "images/n161313.jpg", "Who?", None, None, None)


def test_a_split_that_is_not_there_is_told_those_that_are(tmp_path):
    said = r"val_questions\.json; it has testdev_balanced_questions\.json: get it from"
    with pytest.raises(SamplesError, match=said):
        source("gqa", path=layouts.gqa(tmp_path), split="val").samples()


def test_mme(tmp_path):
    (layouts.mme(tmp_path) / "existence" / "._000000006040.txt").write_bytes(b"\x00\x05\x16\x07\xb0")  # of a Mac
    found = source("mme", path=tmp_path).samples()
    assert found.table.height == 6
    assert found.table.row(1, named=True) == {
        "sample_id": "existence/000000006040/2",
        "image": "existence/000000006040.jpg",
        "question": "Is there a cat in this image? Please answer yes or no.",
        "question_alone": "Is there a cat in this image?",
        "label": "no",
        "split": "existence",
    }
    assert found.table.row(5)[:3] == ("code_reasoning/0001/2", "code_reasoning/images/0001.png", "Is it C?")
    assert found.image("code_reasoning/images/0001.png").size == (9, 7)
    text = tmp_path / "existence" / "000000006040.txt"
    text.write_text("Is there a dog?\tYes\t\n\nIs there a cat?\tNo \t \n")
    assert source("mme", path=tmp_path).samples().table["label"].to_list()[:2] == ["yes", "no"]


@pytest.mark.parametrize("text", ["Is it?\tYes\n", "Is it?\tYes\nIs it?\tMaybe\n", "Is it? Yes\nIs it? No\n"])
def test_mme_has_two_questions_about_an_image(tmp_path, text):
    (layouts.mme(tmp_path) / "existence" / "000000007816.txt").write_text(text)
    with pytest.raises(SamplesError, match=r"000000007816.txt is not of MME's release .*: it has two lines"):
        source("mme", path=tmp_path).samples()


def test_mme_without_images_or_tasks(tmp_path):
    (layouts.mme(tmp_path / "mme") / "existence" / "000000007816.jpg").unlink()
    with pytest.raises(SamplesError, match=r"000000007816.txt has no image"):
        source("mme", path=tmp_path / "mme").samples()
    with pytest.raises(SamplesError, match="has none of the tasks existence"):
        source("mme", path=tmp_path).samples()


def test_llava_bench(tmp_path):
    found = source("llava-bench", path=layouts.llava_bench(tmp_path)).samples()
    assert found.table.row(2, named=True) == {
        "sample_id": "2",
        "image": "002.jpg",
        "question": "What is this?",
        "answer": "Answer 2.",
        "context": "This is 002.jpg.",
        "split": "complex",
    }
    assert found.image("002.jpg").size == (9, 7)
    lines = (tmp_path / "answers_gpt4.jsonl").read_text().splitlines()
    (tmp_path / "answers_gpt4.jsonl").write_text(lines[0])
    with pytest.raises(SamplesError, match=r"answers_gpt4.jsonl lacks question 1"):
        source("llava-bench", path=tmp_path).samples()
