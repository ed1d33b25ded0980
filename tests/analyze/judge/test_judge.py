"""The judge, against a server that speaks the protocol and its faults."""

import base64
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace

import pytest

import actstore_analyze.judge.client as judge_module
from actstore.errors import ActstoreError
from actstore_analyze.judge.client import Judge, Question
from actstore_analyze.sae.question import matched, question
from speaking import speaking

PNG = b"\x89PNG\r\n\x1a\n and the rest"
JPEG = b"\xff\xd8\xff and the rest"
YES = "Image description: a dog on grass.\nMatch found: YES\nExplanation: a dog is there."
QUESTION = question(("dogs", "the colour green"), PNG)


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """Seconds that the judge would wait, in order; it does not."""
    found = []
    monkeypatch.setattr(judge_module, "time", SimpleNamespace(sleep=found.append, time=time.time))
    return found


@pytest.fixture
def server():
    with speaking(lambda _: YES) as speaker:
        yield speaker


def judge(server, **options):
    return Judge("tiny-judge", server.url, **{"tries": 3, "timeout": 5.0} | options)


def test_one_question_is_one_message_with_text_and_image(server):
    assert judge(server).ask(QUESTION) == YES
    (body,) = server.asked
    assert (body["model"], body["temperature"]) == ("tiny-judge", 0.001)
    (message,) = body["messages"]
    text, image = message["content"]
    assert message["role"] == "user"
    assert "1. dogs\n2. the colour green\n" in text["text"]
    assert "Match found: YES or NO" in text["text"]
    kind, data = image["image_url"]["url"].split(",")
    assert (kind, base64.b64decode(data)) == ("data:image/png;base64", PNG)


@pytest.mark.parametrize("faults", [[429], [500, 429], ["torn"], ["empty", "torn"], ["slow"], [500, "slow"]])
def test_what_fails_is_asked_again(server, faults):
    server.faults = list(faults)
    assert judge(server, timeout=0.2 if "slow" in faults else 5.0).ask(QUESTION) == YES
    assert len(server.asked) == len(faults) + 1


@pytest.mark.parametrize(
    ("faults", "message"),
    [
        ([429] * 9, "refused: 429 .*told to fail with 429"),
        ([500] * 9, "refused: 500"),
        (["torn"] * 9, r"replied with something else than a chat completion \(3 tries\)"),
        (["empty"] * 9, r"replied with something else than a chat completion \(3 tries\)"),
        ([500, 429, "torn", 500, 500], r"replied with something else than a chat completion \(3 tries\)"),
        (["torn", "slow", 429, 500], r"refused: 429 .*\(3 tries\)"),
        (["slow"] * 9, r"Request timed out. \(3 tries\)"),
    ],
)
def test_after_its_tries_it_says_why(server, faults, message):
    server.faults = faults
    with pytest.raises(ActstoreError, match=message):
        judge(server, timeout=0.1 if "slow" in faults else 5.0).ask(QUESTION)
    assert len(server.asked) == 3


@pytest.mark.parametrize(
    "body",
    [
        b"0",
        b"NaN",
        b"null",
        b'"yes"',
        b"[1]",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"choices": 7}',
        b'{"choices": {"0": NaN}}',
        b'{"choices": [{"message": {"content": 0}}]}',
        b'{"choices": [{"message": {"content": {"text": "YES"}}}]}',
    ],
    ids=range(10),
)
def test_json_of_another_shape_is_no_reply(server, body):
    server.faults = [body] * 3
    with pytest.raises(ActstoreError, match=r"replied with something else than a chat completion \(3 tries\)"):
        judge(server).ask(QUESTION)


@pytest.mark.parametrize("faults", [[500] * 4, ["torn"] * 4, ["unclear"] * 4, [500, "torn", "unclear", 503]])
def test_pauses_grow_after_every_kind_of_fault(pauses, faults):
    with speaking(lambda _: "I cannot say." if server.unclear.pop(0) else YES) as server:
        server.wait = {}
        server.unclear = [fault == "unclear" for fault in faults if fault not in (500, 503, "torn")] + [False]
        server.faults = [None if fault == "unclear" else fault for fault in faults]
        assert judge(server, tries=5).ask(QUESTION) == YES
        assert len(server.asked) == 5
    assert len(pauses) == 4
    assert all(0.75 * 0.5 * 2**i <= pause <= 0.5 * 2**i for i, pause in enumerate(pauses))


@pytest.mark.parametrize(
    ("wait", "pause"), [({"Retry-After": "7"}, 7), ({"retry-after-ms": "5"}, 0.005), ({"Retry-After": "9999"}, 60)]
)
def test_it_waits_as_long_as_the_endpoint_asks(server, pauses, wait, pause):
    server.faults, server.wait = [429, 429], wait
    assert judge(server).ask(QUESTION) == YES
    assert pauses == [pause, pause]


def test_it_waits_until_the_time_that_the_endpoint_names(server, pauses):
    server.faults, server.wait = [429], {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=30))}
    assert judge(server).ask(QUESTION) == YES
    assert pauses[0] == pytest.approx(29.5, abs=5)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_what_will_never_work_is_asked_once(server, status):
    server.faults = [status] * 9
    with pytest.raises(ActstoreError, match=f"tiny-judge at {server.url} refused: {status}"):
        judge(server).ask(QUESTION)
    assert len(server.asked) == 1


def test_no_server():
    with pytest.raises(ActstoreError, match=r"Connection error. \(1 tries\)"):
        Judge("x", "http://127.0.0.1:9/v1", tries=1).ask(QUESTION)


def test_an_unclear_reply_is_asked_again_and_then_taken_as_it_is():
    replies = ["I cannot say.", "Match found: perhaps", YES]
    with speaking(lambda _: replies.pop(0)) as server:
        assert judge(server).ask(QUESTION) == YES
    with speaking(lambda _: "I cannot say.") as server:
        assert judge(server).ask(QUESTION) == "I cannot say."
        assert len(server.asked) == 3


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "s3cret")
    judge(server).ask(QUESTION)
    monkeypatch.delenv("OPENAI_API_KEY")
    judge(server).ask(QUESTION)
    assert server.keys == ["Bearer s3cret", "Bearer none"]
    with pytest.raises(ActstoreError, match="set OPENAI_API_KEY, or name an endpoint"):
        Judge("gpt-4o").ready()


@pytest.mark.parametrize(
    ("reply", "match"),
    [
        (YES, True),
        ("match found:no", False),
        ("**Match found**: **YES**", True),
        ("Match found: NO. Explanation: YES it is a dog", False),
        ("Match found: YESTERDAY", None),
        ("YES", None),
        ("", None),
    ],
)
def test_replies(reply, match):
    assert matched(reply) is match


def test_questions_differ_by_text_and_image():
    questions = [QUESTION, question(("dogs",), PNG), question(("dogs", "the colour green"), JPEG)]
    assert len({question.key for question in questions}) == 3
    assert question(("dogs",), PNG).key == questions[1].key
    assert [question.kind for question in (*questions, question((), b"BM"))] == ["png", "png", "jpeg", None]


def test_a_question_may_have_no_image(server):
    judge(server).ask(Question("How are you?", reads=len))
    assert server.asked[0]["messages"] == [{"role": "user", "content": [{"type": "text", "text": "How are you?"}]}]
