"""What libraries have made is left alone by the garbage collector, and nothing of it is said at the end."""

import subprocess
import sys

import making

CODE = """
import gc, sys
from actstore.commands.main import run
status = run(sys.argv[1:])
print(status, gc.isenabled(), gc.get_freeze_count() > 50_000)
"""


def test_what_is_imported_is_frozen_and_duckdb_is_not(tmp_path):
    store = making.store(tmp_path / "s", 1).path
    for words in (["info"], ["query", "from rows"], ["schema"], ["results"]):
        command = [sys.executable, "-c", CODE, words[0], str(store), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stderr == "", words
        assert done.stdout.splitlines()[-1] == "0 True True", words
