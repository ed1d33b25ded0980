"""The command that scores what models said."""

from pathlib import Path
from typing import Any

import click

from actstore.commands.options import OutputPath, output_options, store_argument
from actstore_analyze.commands import end_of, judged, say, show, subtracted


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
@subtracted
@click.option("--reference", metavar="MODEL", help="A column with what was published of it: chameleon-7b, ...")
@click.option("--force", is_flag=True, help="Compute it again, though a saved result would answer.")
@click.option("--figure", type=OutputPath(), help="Draw it, as .png, .svg or .pdf.")
@output_options
def score(
    store: Path | str,
    sql: str,
    task: str,
    said: str | None,
    truth: str | None,
    minus_store: Path | str | None,
    reference: str | None,
    force: bool,
    figure: Path | None,
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
    With --minus-store the differences of vqa, cider, gqa, answers and of POPE's accuracy from another store, over the
    samples of both, which have the same truth there.

    \b
    Example:
      actstore score demo/fusion "from samples where prompt_order = 'image-text'" --task answers
      actstore score runs/vqa --task vqa --reference chameleon-7b --format markdown
      actstore score runs/pope --task pope --said next_token
      actstore score runs/vqa --task vqa --minus-store runs/tuned --figure difference.png
      actstore score runs/llava-bench --task llava-bench --judge gpt-4o --estimate
    """
    from actstore.commands.table import render
    from actstore.store import open as open_store
    from actstore_analyze.charts import charts
    from actstore_analyze.measured import Measured
    from actstore_analyze.score.board import Board, Score
    from actstore_analyze.score.figure import differences
    from actstore_analyze.score.minus import ScoreMinus
    from actstore_analyze.score.published import beside
    from actstore_analyze.score.reviews import Reviewed
    from actstore_analyze.score.study import Scored
    from actstore_analyze.study.recall import answer
    from actstore_analyze.study.subjects import subjects

    chosen: dict[str, Any] = {"task": task, "sql": sql, "said": said, "truth": truth}
    if minus_store is not None:
        if judge is not None or reference is not None:
            raise click.UsageError("--minus-store is of two stores alone; leave --judge and --reference out")
        shown: dict[str, Any] = {"force": force, "figure": figure, "style": style, "output": output}
        show(store, ScoreMinus, differences, **shown, **chosen, minus_store=minus_store)
        return
    if (judge is not None) != (task == "llava-bench"):
        raise click.UsageError("--judge MODEL is for --task llava-bench, which needs one")
    if figure is not None:
        charts.check(figure)
    opened = open_store(store)
    if judge is None:
        call = Scored.of(opened, **chosen)
    else:
        call = Reviewed.of(opened, **chosen, judge=judge, force=force, **asking)
        if estimate:
            say(call.estimate(opened, say=say))
            return
    found = answer(opened, call, force=force, say=say)
    table = found.table if reference is None else beside(found.table, opened, reference)
    board = Board([Score(subjects([opened])[0], call, found.table)])
    hand = click.get_current_context().obj
    if hand is not None:
        saved = () if found.result is None else (found.result,)
        hand(Measured(table=table, call=board, store=store, results=saved, draw=board.chart))
        return
    render(table, style, output)
    if figure is not None:
        charts.draw(board.chart(), figure)
    end_of(found)
