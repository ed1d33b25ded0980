"""The command that scores what models said."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import output_options, store_argument
from actstore_analyze.commands import end_of, judged, say


@click.command()
@store_argument
@click.argument("sql", default="from samples")
@click.option(
    "--task",
    required=True,
    type=click.Choice(["vqa", "cider", "pope", "gqa", "mme", "llava-bench", "answers"]),
    help="vqa: ten annotators; cider: captions; pope, mme: yes or no; gqa: exact match; answers: any of the true ones; "
    "llava-bench: a judge.",
)
@click.option("--said", metavar="COLUMN", help="What the model said; without it generated_text, else next_token.")
@click.option("--truth", metavar="COLUMN", help="Without it answers, captions, label or answer, as the task needs.")
@judged("llava-bench needs one")
@click.option("--reference", metavar="MODEL", help="A column with what was published of it: chameleon-7b, ...")
@click.option("--force", is_flag=True, help="Compute it again, though a saved result would answer.")
@output_options
def score(
    store: Path | str,
    sql: str,
    task: str,
    said: str | None,
    truth: str | None,
    reference: str | None,
    force: bool,
    style: str | None,
    output: Path | None,
    judge: str | None,
    estimate: bool,
    **asking: Any,
) -> None:
    """Score what the model said against columns of the plan, by condition and split, with 95 % intervals.

    Shares have Wilson's interval; means (vqa, cider) and F1 the bootstrap's over samples, with CIDEr's word weights
    held as they are. Under conditions, difference is that from the model as it is, over the same samples. Captions are
    scored split at white space and nothing else, as in the paper's code, and as tokens of the Penn Treebank, COCO's
    practice (cider_ptb, cider_d_ptb). CIDEr weighs words within each split: its scores of a split and of all do not add
    up.
    MME is in points, 200 at most for a task; perception and cognition sum theirs. LLaVA-Bench's relative is the judge's
    ratings over those of the reference; its replies are kept in the store: a second run asks nothing, and with --force
    what had an unclear reply.

    \b
    Example:
      actstore score demo/fusion "from samples where prompt_order = 'image-text'" --task answers
      actstore score runs/vqa --task vqa --reference chameleon-7b --format markdown
      actstore score runs/pope --task pope --said next_token
      actstore score runs/llava-bench --task llava-bench --judge gpt-4o --estimate
    """
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_analyze.score.published import beside
    from actstore_analyze.score.reviews import Reviewed
    from actstore_analyze.score.study import Scored
    from actstore_analyze.study.recall import answer

    if (judge is not None) != (task == "llava-bench"):
        raise click.UsageError("--judge MODEL is for --task llava-bench, which needs one")
    opened = open_store(store)
    chosen: dict[str, Any] = {"task": task, "sql": sql, "said": said, "truth": truth}
    if judge is None:
        call = Scored.of(opened, **chosen)
    else:
        call = Reviewed.of(opened, **chosen, judge=judge, force=force, **asking)
        if estimate:
            say(call.estimate(opened, say=say))
            return
    found = answer(opened, call, force=force, say=say)
    render(found.table if reference is None else beside(found.table, opened, reference), style, output)
    end_of(found)
