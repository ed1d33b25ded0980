"""Options that messages and help name are options of commands; tests/fuzz/commands.py asks: of the one that says so."""

import ast
from pathlib import Path

import advice

ROOT = Path(__file__).parent.parent


def texts(path):
    """Strings of a file, each with its line; those in braces left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            said = "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            yield node.lineno, said
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            yield node.lineno, node.value


def files():
    for package in ("actstore", "extract/actstore_extract", "analyze/actstore_analyze"):
        yield from sorted((ROOT / package).rglob("*.py"))


def test_every_option_that_is_named_is_one_of_some_command():
    found = [
        (str(path.relative_to(ROOT)), line, option)
        for path in files()
        for line, said in texts(path)
        if " " in said  # else it is a word of some call
        for option in advice.strange(said, advice.commands())
    ]
    assert found == []


def test_what_a_command_says_is_of_its_own_options():
    said = "nowhere: no such folder; for a release of sae-lens give its id too: --sae-id layer_3"
    assert advice.strange(said, advice.called(["score", "s", "--task", "vqa"])) == {"--sae-id"}
    assert advice.strange(said, advice.called(["explore", "s"])) == set()
    assert advice.strange("run actstore train sae S OUT --features 8", advice.called(["info", "s"])) == set()
