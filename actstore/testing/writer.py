"""Processes that write a store whose numbers are known, to be killed, raced and hindered.

python -m actstore.testing.writer all STORE SEED      writes every batch that is left, in some order, and says each one
python -m actstore.testing.writer within STORE BYTES  writes batch 1 where no file may grow beyond that size
python -m actstore.testing.writer serve               does what `all` does for each line STORE <tab> SEED it is given
"""

import os
import resource
import sys

import numpy as np

import actstore
from actstore import ActstoreError, AlreadyCommittedError
from actstore.testing import known


def write_all(path: str, seed: int) -> int:
    """Write what is left, in an order that the seed gives, and say each batch when it is acknowledged."""
    store = actstore.open(path)
    for batch in np.random.default_rng(seed).permutation(store.remaining).tolist():
        try:
            known.write(store, batch)
            print(batch, flush=True)
        except AlreadyCommittedError:
            pass
    return 0


def write_within(path: str, n_bytes: int) -> int:
    """Write where no file may grow beyond some bytes; the exit status."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
    try:
        known.write(actstore.open(path), 1)
    except ActstoreError:
        return known.REFUSED
    return 0


def serve() -> None:
    """Fork a writer for each line: a start of Python takes longer than a kill. Says `pid N`, and `gone` at its end."""
    for line in sys.stdin:
        path, seed = line.split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                write_all(path, int(seed))
            finally:
                os._exit(0)
        print("pid", pid, flush=True)
        os.waitpid(pid, 0)
        print("gone", flush=True)


def main(what: str, *arguments: str) -> int:
    """Do one of the three; the exit status."""
    if what == "serve":
        serve()
        return 0
    path, number = arguments
    return {"all": write_all, "within": write_within}[what](path, int(number))


if __name__ == "__main__":
    os._exit(main(*sys.argv[1:]))  # without the time that libraries take to say good-bye
