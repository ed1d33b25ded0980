"""The command that reads knockouts from a store."""

import re
from pathlib import Path
from typing import Any

import click

from actstore.commands.options import COUNT
from actstore_analyze.commands import RUNNING, beside, measured, numbers, of_replays_alone, referenced, replayed, show

REPLAYED = (*RUNNING, "mode", "windows", "blocks", "heads", "repeats")


def knockouts(_context: click.Context, _option: click.Parameter, text: str | None) -> list[str] | None:
    """`eoi,{ keys = ['eoi', 'boi'] }` as two: commas inside braces separate nothing."""
    return None if text is None else [one.strip() for one in re.split(r",(?![^{]*\})", text) if one.strip()]


@click.command()
@measured
@click.option("--label", default="label", show_default=True, help="Column of the labels, of SQL or of the view rows.")
@click.option(
    "--role", default="last", show_default=True, help="Label overlap of its vectors; the mean over positions."
)
@click.option("-k", default=30, show_default=True, type=COUNT, help="Neighbours of each point.")
@click.option(
    "--replay",
    callback=knockouts,
    metavar="KEYS,...",
    help="Knock these out now: eoi, image, ..., or { keys = ['eoi', 'at-9'], queries = 'text' }, as recipes have it.",
)
@click.option("--mode", default="post", show_default=True, type=click.Choice(["post", "pre"]), help="Of a replay.")
@click.option("--windows", type=COUNT, help="Of a replay: in the last N blocks, 2 N, ..., all.")
@click.option("--blocks", callback=numbers("block"), metavar="BLOCK,...", help="Of a replay: in these, such as 0,4..8.")
@click.option("--heads", callback=numbers("head"), metavar="HEAD,...", help="Of a replay: of these heads alone.")
@click.option("--repeats", type=COUNT, help="Of a replay of random keys: so many draws.")
@replayed
@referenced
@beside
def knockout(store: Path | str, **asked: Any) -> None:
    """What is left when attention is knocked out: one table of all knockouts that the samples of STORE ran under.

    By knockout and window (its last blocks; 0 is the model as it is): label overlap of the last token at the output, or
    at the one of --layers; VQA accuracy and CIDEr where the samples have answers or captions; how often the next token
    is the label, and the label's probability where the recipe kept that of answers. Repeats of random knockouts are
    measured apart and averaged, with their standard deviation. SQL chooses rows; it gives at least row_id.

    With --replay, knockouts that did not run: replayed from the residual streams in STORE and the decoder's weights,
    without images and GPU. The text is kept from attending to these keys; a table in braces is a condition as recipes
    write it, and --mode, --windows, --blocks, --heads and --repeats are for those that do not say.

    \b
    Example:
      actstore knockout demo/fusion-knockout -k 10 --figure knockout.png
      actstore knockout runs/chameleon-knockout-vqa --format markdown
      actstore knockout runs/chameleon --together runs/pixtral --figure share.png
      actstore extract digits-gated-replay demo/gated-replay
      actstore knockout demo/gated-replay --replay eoi,image --mode pre -k 10
      actstore knockout demo/gated-replay --replay "{ keys = ['eoi', 'last-image'], heads = [0, 1] }" --blocks 2..5
    """
    from actstore_analyze.knockout import figure, study, together
    from actstore_analyze.knockout import replayed as replays

    replay = asked.pop("replay")
    if replay is None:
        of_replays_alone(REPLAYED, "say which keys are knocked out, by --replay")
        show(
            store,
            study.Knockout,
            figure.knockout,
            panel=together.together,
            **{name: value for name, value in asked.items() if name not in REPLAYED},
        )
        return
    role = asked.pop("role")
    if role != "last":
        raise click.UsageError("--role is of knockouts that ran: of a replay the last token is compared")
    listed = {name: None if asked[name] is None else tuple(asked[name]) for name in ("blocks", "heads")}
    show(
        store,
        replays.KnockoutReplayed,
        figure.knockout,
        panel=together.together,
        replay=tuple(replay),
        forced=asked["force"],
        **{**asked, **listed},
    )
