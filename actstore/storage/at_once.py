"""At once: several requests, each of which waits for its answer; Ctrl-C waits for none of them."""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from actstore import process

__all__ = ["each", "heard"]

MOST = 16  # requests

T = TypeVar("T")
R = TypeVar("R")


def each(function: Callable[[T], R], things: Sequence[T], /, most: int = MOST) -> list[R]:
    """function of each, several at once; the first error of any, after which no other begins."""
    if len(things) < 2:
        return [function(one) for one in things]
    return _shared(function, things, most)


def heard(call: Callable[[], R]) -> R:
    """What a call returns that would go on through Ctrl-C: the thread that has it is left with it."""
    if threading.current_thread() is not threading.main_thread():  # others do not hear it
        return call()
    return _shared(lambda _: call(), [None], 1)[0]


def _shared(function: Callable[[T], R], things: Sequence[T], most: int) -> list[R]:
    """In threads that end with the process, whatever they wait for: those of a pool are waited for."""
    todo, found = iter(range(len(things))), dict[int, R]()
    errors, taking, left = dict[int, BaseException](), threading.Lock(), threading.Event()

    def work() -> None:
        while not (errors or left.is_set()):
            with taking:
                number = next(todo, None)
            if number is None:
                return
            try:
                found[number] = function(things[number])
            except BaseException as error:
                errors[number] = error

    process.hear_interruptions()
    threads = [threading.Thread(target=work, name="remote", daemon=True) for _ in range(min(most, len(things)))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        left.set()
    if errors:
        raise errors[min(errors)]
    return [found[number] for number in range(len(things))]
