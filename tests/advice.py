"""Options that texts name, and the commands that have them."""

import re
from functools import cache

import click

from actstore.commands.main import cli

OPTION = re.compile(r"(?<![\w/-])--[a-z][a-z-]*[a-z]\b(?!-)")
# Of pip, hf, torchrun and dask.
FOREIGN = {
    *("--index-url", "--local-dir", "--no-deps", "--nproc-per-node", "--repo-type", "--upgrade"),
    *("--nthreads", "--no-dashboard"),
}


@cache
def commands():
    """Every command by its words, such as ("train", "sae")."""
    return dict(_of(cli))


def _of(group, words=()):
    context = click.Context(group)
    for word in group.list_commands(context):
        one = group.get_command(context, word)
        yield (*words, word), one
        if isinstance(one, click.Group):
            yield from _of(one, (*words, word))


def called(words):
    """Which commands these words of a command line call: none, or one, and the groups around it."""
    return [known for known in commands() if tuple(words[: len(known)]) == known]


def strange(said, own):
    """Options that a text names and neither the commands `own` have nor those that it names itself."""
    told = [words for words in commands() if re.search(rf"actstore {' '.join(words)}\b", said)]
    have = {option for words in (*own, *told) for one in commands()[words].params for option in one.opts}
    return {*OPTION.findall(said)} - have - FOREIGN - {"--help"}
