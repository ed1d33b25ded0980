"""Commands that run what made a store again: to compare, and to repair."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from actstore.commands.options import COUNT, SEED, Number, folder_argument, output_options
from actstore.commands.statuses import Status, end
from actstore.errors import visible

if TYPE_CHECKING:
    import polars as pl

    from actstore_extract.again.repair import Repaired


def _say(text: str) -> None:
    click.echo(visible(text, lines=True), err=True)


device_option = click.option(
    "--device", default="auto", show_default=True, help="cpu, cuda, cuda:1; auto takes a GPU if there is one."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="SECTION.KEY=VALUE",
    help="Where things are now: model.path=FOLDER, samples.path=FOLDER.",
)


@click.command()
@folder_argument
@click.argument("sql", default="from samples where status = 'ok'")
@click.option("-n", "n", type=COUNT, default=8, show_default=True, help="Samples that are run again.")
@click.option("--seed", default=0, show_default=True, type=SEED, help="Which of the samples of the query.")
@click.option("--batch-size", type=COUNT, help="Samples in one forward; as at first if not given.")
@click.option("--tolerance", type=Number(min=0), help="Relative difference allowed; by number type if not given.")
@click.option("--other-weights", is_flag=True, help="Compare although the model at hand has other weights.")
@device_option
@set_option
@output_options
def recompute(
    store: Path,
    sql: str,
    n: int,
    seed: int,
    batch_size: int | None,
    tolerance: float | None,
    other_weights: bool,
    device: str,
    overrides: tuple[str, ...],
    style: str | None,
    output: Path | None,
) -> None:
    """Run some samples again and compare what the store holds; exit status 1 if anything is out of tolerance or
    damaged.

    The model and the samples must be at hand. It is also said in what the runs differ: size of batches, attention
    implementation, device, versions. Differences are relative: the norm of the difference over the norm, at most 0.1
    for bfloat16, 0.02 for float16 and 0.001 for float32. The next token and answers are compared by probability; texts
    must be the same where nothing else differs.

    \b
    Example:
      actstore recompute demo/fusion -n 20
      actstore recompute demo/fusion "from samples where label = 'seven'" --batch-size 1
    """
    from actstore.commands.table import render
    from actstore.errors import ActstoreError
    from actstore.format.header import Header
    from actstore_extract.again.asked import asked

    asked(store, Header.load(store), overrides)  # before torch is loaded, which takes seconds
    from actstore_extract.again.recompute import recompute as run

    done = run(
        store,
        sql=sql,
        n=n,
        seed=seed,
        batch_size=batch_size,
        allowed=tolerance,
        other_weights=other_weights,
        device=device,
        overrides=overrides,
        say=_say,
    )
    for name, then, now in done.differing.iter_rows():
        _say(f"{name} differs: {then} then, {now} now")
    if done.differing.is_empty():
        _say("batch size, device, attention, versions and weights are those of the run card")
    render(done.table, style, output)
    for problem in done.damaged:
        _say(problem)
    if worst := done.worst:
        where = f", layer {worst['layer']}" if worst["layer"] is not None else ""
        raise ActstoreError(
            f"{store}: {worst['what']} of sample {worst['sample_id']} (condition {worst['condition']}{where}) is "
            f"{worst['furthest']:.3g} away from what is stored; {worst['tolerance']:g} is allowed"
        )
    if done.damaged:
        raise ActstoreError(
            f"{store} is damaged: what is named above could not be read and was not compared; "
            "actstore verify says all that is damaged, actstore repair makes it again"
        )


@click.command()
@folder_argument
@click.option("--dry-run", is_flag=True, help="Say which samples would be run again; needs no model.")
@click.option("--failed", is_flag=True, help="Also run samples that failed once more.")
@click.option("--accept-failed", is_flag=True, help="Take samples that fail now for such as always failed.")
@device_option
@set_option
@output_options
def repair(
    store: Path,
    dry_run: bool,
    failed: bool,
    accept_failed: bool,
    device: str,
    overrides: tuple[str, ...],
    style: str | None,
    output: Path | None,
) -> None:
    """Find what is damaged, run those samples again, and put what comes out in its place.

    Every byte is read first, as by actstore verify. Damage is healed part by part: for one flipped byte all samples
    of its part are run again, up to 2,048. The model and the samples must be at hand. Nothing that was committed is
    changed: a new record replaces those that are damaged, under the same row_id; actstore gc removes the remains a
    day later. What comes out is compared with what is intact, and with the checksums of what was damaged.

    \b
    Example:
      actstore repair demo/fusion --dry-run
      actstore repair demo/fusion
      actstore repair demo/fusion --failed
    """
    from actstore.commands.table import render
    from actstore.errors import ActstoreError
    from actstore.format.header import Header
    from actstore.maintain import damage, verify
    from actstore.progress import bar
    from actstore.store import open as open_store
    from actstore_extract.again.asked import asked

    if overrides:
        asked(store, Header.load(store), overrides)
    steps = verify.steps(store)
    with bar(len(steps), "checks") as progress:
        problems = verify.run(steps, progress.advance)
    if unread := verify.apart(problems)[1]:
        raise ActstoreError(f"{store}: {len(steps)} checks, {unread}; nothing is repaired before all can be read")
    found = damage.find(store, problems)
    if dry_run:
        render(damage.table(store, found, failed=failed), style, output)
        return
    done: list[Repaired] = []
    try:
        if found or failed:  # else nothing is run, and torch takes seconds to load
            from actstore_extract.again.repair import repair as run

            options = {"failed": failed, "accept_failed": accept_failed}
            for one in run(store, found, **options, device=device, overrides=overrides, say=_say):
                done.append(one)
                if one.bit_equal is False:
                    _say(f"{one.commit.name} is not bit for bit what was committed: another device, version or picture")
    finally:  # what was done before an error stays done
        if done:
            render(_table(done), style, output)
        if done and found:
            _say(f"{store}: the damaged files are left as they are; actstore gc removes their parts a day later")
    if not done:
        _say(f"{store}: {len(steps)} checks, nothing to repair")
    if rest := damage.advice(store, [problem for problem in problems if problem.record is None]):
        raise ActstoreError(f"{store}: not everything can be made again\n{rest}")
    if failed:
        left = open_store(store).sql("select count(*) from samples where status = 'failed'").item()
        end(Status.IN_PART if left else Status.DONE)


def _table(done: "list[Repaired]") -> "pl.DataFrame":
    import polars as pl

    return pl.DataFrame(
        {
            "record": [one.commit.name for one in done],
            "replaces": [", ".join(one.commit.replaces) for one in done],
            "samples": [one.samples for one in done],
            "MB": [round(one.commit.bytes / 1e6, 2) for one in done],
            "bit_equal": [one.bit_equal for one in done],
        }
    )
