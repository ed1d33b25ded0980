"""The prose of a report, made from what its stores are and from the parameters that were used."""

from collections.abc import Iterator, Sequence

import polars as pl

from actstore.store import Store
from actstore_analyze.knockout.study import Knockout
from actstore_analyze.overlap.study import Overlap
from actstore_analyze.patch.study import Patched
from actstore_analyze.report import runcard
from actstore_analyze.report.experiments import Experiment, Shown
from actstore_analyze.study.subjects import Subject

__all__ = ["how_to_read", "methods"]

OVERLAP = (
    "Label overlap χ is the share of a vector's nearest neighbours that carry its label. Well above chance, it says "
    "that the label can be read from that position at that layer. It does not say that the model uses it there."
)
NOT_A_GATE = (
    "A high overlap at [EOI] alone is no evidence of a narrow gate. Whether what the text knows of the image passes "
    "through one position is a causal question: block that position (knockout) or replace its vector (patching), and "
    "see what the model then says."
)
UNDEFINED = (
    "A point is missing (“undefined” in the tables) where all vectors are the same, as at layer 0 of a token that "
    "every sample has: no vector has nearest neighbours there."
)
STANDS_FOR = "What its curves show holds for itself, not for large models."
OTHER_SCALE = (
    "The published values below belong to other models, other images, 100 classes and k = 30. Compare shapes over "
    "depth; heights and chance levels differ by construction."
)


def how_to_read(
    subjects: Sequence[Subject], experiments: Sequence[Experiment], others: Sequence[Experiment], *, beside: bool
) -> list[str]:
    """Paragraphs: what the curves, label overlaps and others, say and do not say about these stores.

    beside: what was published of other models stands on the page, too.
    """
    paragraphs = [OVERLAP] if experiments else []
    first = {str(subject.store.run.get("model") or subject.title): subject for subject in reversed(subjects)}
    paragraphs += [text for subject in subjects if subject in first.values() for text in _about(subject)]
    if any("eoi" in shown.table["role"] for experiment in experiments for shown in experiment.shown):
        paragraphs.append(f"{NOT_A_GATE} {_causal(others)}")
    paragraphs += [text for experiment in experiments if (text := _gate_or_not(experiment))]
    if any(shown.table["overlap"].is_nan().any() for experiment in experiments for shown in experiment.shown):
        paragraphs.append(UNDEFINED)
    return [*paragraphs, *([OTHER_SCALE] if beside else [])]


def _causal(others: Sequence[Experiment]) -> str:
    """Whether the page answers the causal question, and for which stores."""
    names = [
        f"{word} of {', '.join(dict.fromkeys(one.subject.title for each in found for one in each.shown))}"
        for word, kind in (("knockouts", Knockout), ("patches", Patched))
        if (found := [each for each in others if isinstance(each.call, kind)])
    ]
    return f"This page holds {' and '.join(names)}." if names else "This page holds neither."


def _about(subject: Subject) -> Iterator[str]:
    """What a shipped model is, is not, and was trained on."""
    store = subject.store
    card = runcard.shipped_card(store)
    name = str(store.run["model"]) if card else subject.title
    if card:
        size = f"{store.run.get('n_layers')} layers of width {store.run.get('d_model')}"
        sentences = (
            f"{name} is a tiny model ({size}) that ships with actstore, trained on scanned digits of 8 × 8 pixels.",
            *(str(card[key]) for key in ("is", "gate") if card.get(key)),
            f"It is not: {_lowered(str(card['is_not']))}" if card.get("is_not") else "",
            f"No narrow gate is claimed for it. {STANDS_FOR}" if card.get("text_sees_image") else "",
            _trained_on(store),
        )
        yield " ".join(filter(None, sentences))
    if "eoi" in runcard.listed(store, "not_found"):
        yield f"{name} has no end-of-image token, so it has no curve for eoi."


def _lowered(text: str) -> str:
    return text[:1].lower() + text[1:]


def _trained_on(store: Store) -> str:
    """How many of the samples the model was trained on: neighbours among those flatter it."""
    if "split" not in store.plan.columns:
        return ""
    train, n = int((store.plan["split"] == "train").sum()), store.plan.height
    if not train:
        return ""
    return (
        f"It was trained on {train:,} of the {n:,} samples of its store; actstore overlap with the query "
        "“from rows where split = 'test'” measures held-out ones alone."
    )


def _gate_or_not(experiment: Experiment) -> str | None:
    """The height of [EOI] with and without a gate by construction, where the stores show both."""
    peaks = [(shown, peak) for shown in experiment.shown if (peak := _peak(shown, "eoi")) is not None]
    gated = [(shown, peak) for shown, peak in peaks if _gated(shown.subject.store)]
    free = [(shown, peak) for shown, peak in peaks if not _gated(shown.subject.store)]
    if not gated or not free:
        return None
    with_gate = ", ".join(f"{peak:.2f} in {shown.subject.title}" for shown, peak in gated)
    without = ", ".join(f"{peak:.2f} in {shown.subject.title}" for shown, peak in free)
    assert isinstance(experiment.call, Overlap)
    return (
        f"These stores show why (k = {experiment.call.k}): the largest overlap at [EOI] is {with_gate}, where text "
        "is kept from attending to the image in every layer (an instrument check, not a finding), and "
        f"{without}, where it does attend."
    )


def _gated(store: Store) -> bool:
    return "text -> image, all layers" in runcard.listed(store, "blocked")


def _peak(shown: Shown, role: str) -> float | None:
    value = shown.table.filter(pl.col("role") == role)["overlap"].fill_nan(None).max()
    return value if isinstance(value, float) else None


def methods(experiment: Experiment) -> str:
    """One paragraph: what was computed, from the parameters that were used."""
    call = experiment.call
    if not isinstance(call, Overlap):
        return call.methods
    chance = f"Chance is the overlap to expect of random neighbours: {_chances(experiment)}."
    return " ".join(filter(None, (call.methods, _positions(call, experiment), chance)))


def _positions(call: Overlap, experiment: Experiment) -> str:
    tables = pl.concat([shown.table for shown in experiment.shown], how="diagonal").filter(pl.col("positions") > 1)
    if not tables.height:
        return ""
    most = {str(role): int(table["positions"].max()) for (role,), table in tables.group_by("role")}  # type: ignore[arg-type]
    counts = ", ".join(f"{role}: {most[role]}" for role in sorted(most))
    drawn = f", {call.positions} of them drawn with seed {call.seed}" if call.positions else ""
    return (
        f"A role with several positions in a sample ({counts}) is measured at each position{drawn}, then averaged; the "
        f"band is one standard error over {'samples' if 'copies' in tables.columns else 'positions'}."
    )


def _chances(experiment: Experiment) -> str:
    said = (
        (shown.subject.title, *shown.table.select(pl.col("chance").mean(), pl.col("n").max()).row(0))
        for shown in experiment.shown
    )
    return "; ".join(f"{chance:.3f} for {title} (n = {n:,})" for title, chance, n in said)
