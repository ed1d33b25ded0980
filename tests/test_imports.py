import ast
import subprocess
import sys
from pathlib import Path

import pytest

import actstore
import making
from actstore_extract.recipe.recipe import load

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "actstore": ROOT / "actstore",
    "actstore_extract": ROOT / "extract" / "actstore_extract",
    "actstore_analyze": ROOT / "analyze" / "actstore_analyze",
}
HEAVY = {"torch", "transformers", "faiss", "sklearn", "hdbscan", "pandas", "PIL", "pydantic", "altair", "matplotlib"}


def imported(node):
    """Top-level names of the packages that a statement imports."""
    if isinstance(node, ast.Import):
        return {alias.name.split(".")[0] for alias in node.names}
    if isinstance(node, ast.ImportFrom) and node.level == 0:
        return {(node.module or "").split(".")[0]}
    return set()


def imports(package):
    """(file, line, package imported, whether inside a function or for types alone) of every import of a package."""
    for path in sorted(FOLDERS[package].rglob("*.py")):
        tree = ast.parse(path.read_text())
        late = {
            id(inner)
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
            for inner in ast.walk(node)
        }
        for node in ast.walk(tree):
            for name in imported(node):
                yield path.relative_to(ROOT), node.lineno, name, id(node) in late


@pytest.mark.parametrize(
    ("package", "others"),
    [
        ("actstore", {"actstore_extract", "actstore_analyze", *HEAVY}),
        ("actstore_extract", {"actstore_analyze"}),
    ],
)
def test_packages_know_only_those_below_them(package, others):
    assert [found for found in imports(package) if found[2] in others] == []


def test_analyses_use_extraction_only_where_a_model_runs():
    found = [one for one in imports("actstore_analyze") if one[2] in ("actstore_extract", "torch", "transformers")]
    assert [one for one in found if not one[3]] == []


@pytest.mark.parametrize("package", ["actstore_extract", "actstore_analyze"])
def test_commands_load_heavy_modules_when_they_run(package):
    """A module of commands imports others like it, and click."""
    early = {
        (file, name)
        for file, _, name, late in imports(package)
        if file.name in ("command.py", "commands.py") and not late
    }
    light = {"actstore", package, "click", *sys.stdlib_module_names}
    assert len({file for file, _ in early}) > 2
    assert [one for one in early if one[1] not in light] == []


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return making.store(tmp_path_factory.mktemp("stores") / "s", 1).path


def modules_after(*commands, status=0):
    """Top-level modules there are after each of these commands, which one process runs in turn; all end with status."""
    program = f"""
import sys
from actstore.commands.main import run
for words in {[list(map(str, words)) for words in commands]!r}:
    status = run(words)
    print("after", status, *sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    said = [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("after ")]
    assert [found for found, *_ in said] == [str(status)] * len(commands)
    return [set(names) for _, *names in said]


def test_the_commands_of_every_day_import_nothing_heavy(store):
    """Vectors, too, are read without zarr."""
    asked = [["--help"], ["info", store], ["query", store, "from rows"]]
    vectors = ["query", store, "select residual(row_id, 1) from rows"]
    told, *found = modules_after(*asked, vectors)
    assert told & {"numpy", "polars", "duckdb", "pyarrow"} == set()
    assert [names & (HEAVY | {"zarr"}) for names in (told, *found)] == [set()] * 4


def test_a_recipe_is_checked_before_torch_is_loaded(tmp_path):
    run = {"n_layers": 2, "recipe": load("digits-fusion").record()}
    path = actstore.create(tmp_path / "s", plan=making.plan(1), layers=range(3), d_model=8, run=run).path
    asked = [
        ["extract", "digits-fusion", "s", "--set", "capture.rolez=1"],
        ["train", "adapter", "digits-adapter", "s", "--set", "model.visoin=x"],
        ["recompute", path, "--set", "model.paht=x"],
        ["thumbnails", path, "--set", "samples.pth=x"],
    ]
    assert [names & HEAVY for names in modules_after(*asked, status=1)] == [{"PIL", "pydantic"}] * len(asked)


def test_what_the_store_lacks_is_said_before_torch_is_loaded(tmp_path):
    run = {"n_layers": 2, "weights_sha256": "", "dtype": "float32", "recipe": load("digits-fusion").record()}
    made = actstore.create(tmp_path / "s", plan=making.plan(1), layers=range(3), d_model=8, run=run)
    made.write(0, **making.content(0))
    asked = [
        ["patch", made.path, "--pairs", "sveen:three"],
        ["patch", made.path, "--pairs", "seven:three", "--by", "lable"],
        ["patch", made.path, "--source", "from rows where role = 'nowhere'"],
        ["patch", made.path, "--pairs", "seven:three", "--estimate", "--word", "sveen=x"],
        ["knockout", made.path, "--replay", "eio"],
        ["knockout", made.path, "--replay", "eoi", "--label", "lable"],
        ["lens", made.path, "--roles", "eio"],
    ]
    found = modules_after(*asked, status=1)
    assert [names & {"torch", "transformers"} for names in found] == [set()] * len(asked)
