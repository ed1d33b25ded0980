"""Knockouts replayed: what samples of a store say, and come to, with attention taken away that they did have."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from actstore_extract.forward.slots import role_slots
from actstore_extract.interventions.blocks import Block, parse_block
from actstore_extract.interventions.conditions import Condition
from actstore_extract.replay.check import Check
from actstore_extract.replay.decoder import Decoder
from actstore_extract.replay.errors import ReplayError
from actstore_extract.replay.patched import kept
from actstore_extract.replay.reader import Reader, Stored, together
from actstore_extract.replay.replay import Replay, as_batch
from actstore_extract.replay.sample import Branch, Job, Vectors
from actstore_extract.roles import Positions

__all__ = ["KnockedOut", "knocked_out"]


@dataclass(frozen=True)
class KnockedOut:
    """Some samples under one condition: logits (samples, vocabulary) of the next token and, at the output before the
    final norm, the vectors (samples, d) of the last one."""

    condition: str
    sample_ids: list[str]
    logits: Vectors
    last: Vectors


def knocked_out(
    reader: Reader,
    samples: Sequence[Stored],
    decoder: Decoder,
    conditions: Sequence[Condition],
    check: Check,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[KnockedOut]:
    """Samples under each condition, some at a time; one that blocks nothing is the model as it is, and is checked.

    Only what the queries of a block change is run, from its first layer on. ReplayError for a knockout whose keys no
    sample has, and for samples of which too little is stored.
    """
    size = together(samples)
    groups = [samples[i : i + size] for i in range(0, len(samples), size)]
    for condition in conditions:
        blocks = [parse_block(one, n_layers=decoder.n_layers) for one in condition.blocked]
        replay = Replay(decoder, blocked=blocks, seed=condition.seed)
        for group in groups:
            jobs = [_job(one, condition, blocks, decoder.n_layers) for one in group]
            rows = [
                one.needed(job.past, is_cached=job.sample.cached is not None)
                for one, job in zip(group, jobs, strict=True)
            ]
            reader.expect(np.concatenate(rows))
            last = np.concatenate(replay.outputs(jobs))
            logits = replay.logits(last)
            if not blocks:
                check(group, logits, last, layer=0)
            yield KnockedOut(condition.name, [one.sample_id for one in group], logits, last)
            advance(len(group))


def _job(sample: Stored, condition: Condition, blocks: Sequence[Block], n_layers: int) -> Job:
    begin = min((layer for block in blocks for layer in block.layers or (0,)), default=0)
    queries = _queries(sample, condition, blocks)
    found = sample.past(queries, [begin], n_layers)
    if found is None:
        what = ", ".join(map(str, blocks)) or "the model as it is"
        raise ReplayError(
            f"{sample.store} keeps {kept(sample.store)}: too little of {sample.sample_id} to replay {what}, "
            f"whose queries begin at position {queries[0] if len(queries) else sample.length - 1}: every position has "
            'to be there, at all layers; extract again with [capture] roles = ["all"], or, for queries behind the '
            'image, roles = ["suffix"] and kv = ["prefix"]'
        )
    past, is_cached = found
    return Job(sample.kept(is_cached=is_cached), (Branch(begin),), past)


def _queries(sample: Stored, condition: Condition, blocks: Sequence[Block]) -> Positions:
    """The positions from which attention is taken; ReplayError where there is nothing to take it from."""
    batch, found = as_batch(sample.kept(is_cached=False)), [np.empty(0, np.int64)]
    for block in blocks:
        sides = [role_slots(batch, roles, condition.seed)[0].numpy() for roles in (block.queries, block.keys)]
        if not all(side.any() for side in sides):
            raise ReplayError(
                f"{sample.sample_id} has no {block}: {condition.name} would change nothing; choose samples that have "
                "both sides with SQL, such as \"from rows where sample_id like '%/image-text'\""
            )
        found.append(np.flatnonzero(sides[0]))
    return np.unique(np.concatenate(found))
