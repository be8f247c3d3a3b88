"""What to do with a store, in words, from its assessment."""

from dataclasses import dataclass
from typing import Final, NamedTuple

from stitchwork.geometry.diagnostics.recall_prediction import MIN_ROWS, RecallPrediction
from stitchwork.migration.assessment import AnchorCurvePoint, Assessment
from stitchwork.resources.moves import Action

WRONG_SHARE: Final = 0.7
"""Share of foreign rows from which the store is not of the space at all."""
MIXED_SHARE: Final = 0.05
"""Share of foreign rows from which the store is of several models."""
MIN_GAIN: Final = 0.05
"""Gain in recall from which other anchors are worth registering."""
RELATED_GAIN: Final = 0.2
"""Gain in recall with anchors from the store that only rows which belong to their texts have."""
MIN_RECALL: Final = 0.5
"""Below this recall a store is worth little to those who search it."""
SHORT_SECONDS: Final = 1800.0
"""Embedding everything anew is recommended, where possible, if it takes less."""
MIN_UNCOVERED: Final = 0.005
MAX_UNCOVERED: Final = 0.5
"""Share of rows that are not covered by the anchors, between which they are worth embedding."""


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What is known of a store beside its assessment.

    Attributes:
        rows: Number of rows.
        sample: Number of rows of the sample, at most all of them.
        source: Id of the space that its vectors are said to be of.
        target: Id of the space of the new model.
        anchors: Number of anchors of both spaces.
        uncovered_share: Share of the sample that the anchors do not cover.
        translate_rate: Rows per second that are read and translated.
        embed_rate: Texts per second that are embedded.
        is_moved: Whether the rows are those that a move has written.
    """

    rows: int
    sample: int
    source: str
    target: str
    anchors: int
    uncovered_share: float
    translate_rate: float
    embed_rate: float
    is_moved: bool = False


class Advice(NamedTuple):
    """What to do.

    Attributes:
        action: The action.
        reasons: Sentences: first the action, then what follows from the figures.
    """

    action: Action
    reasons: tuple[str, ...]


def advise(assessment: Assessment, facts: StoreFacts) -> Advice:
    """What to do with a store.

    Args:
        assessment: Its assessment.
        facts: What else is known of it.
    """
    action, reason = _action(assessment, facts)
    return Advice(action, (reason, *_remarks(assessment, facts, action)))


def advise_small(facts: StoreFacts) -> Advice:
    """What to do with a store of fewer rows than recall is predicted from.

    Args:
        facts: What is known of it.
    """
    return Advice(
        "re-embed",
        (
            f"Re-embed instead: the store has {_count(facts.rows)}, and recall is not predicted "
            f"from fewer than {MIN_ROWS}. Embedding everything anew takes about "
            f"{duration(facts.rows / facts.embed_rate)} and is better than any translation.",
        ),
    )


def duration(seconds: float) -> str:
    """A time in the unit that suits it, such as `3.2 hours`."""
    for unit, name in ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes")):
        if seconds >= unit:
            return f"{seconds / unit:.1f} {name}"
    whole = max(round(seconds), 1)
    return f"{whole} second{'' if whole == 1 else 's'}"


def _count(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def _action(assessment: Assessment, facts: StoreFacts) -> tuple[Action, str]:
    foreign = assessment.foreign_share
    recall = max(assessment.store.recall, assessment.queries.recall)
    if foreign >= WRONG_SHARE:
        warning = "Do not use the store that was written" if facts.is_moved else "Do not translate"
        return "check-space", (
            f"{warning}: the rows are not the embeddings of their texts in the space "
            f"{facts.source}. For {foreign:.0%} of them, the translation has nothing in common "
            f"with the embedding of the text. {_cause(assessment)}"
        )
    if foreign >= MIXED_SHARE:
        step = "Separate the rows and move again" if facts.is_moved else "Separate the rows first"
        return "separate-rows", (
            f"{step}: about {foreign:.0%} of them ({round(foreign * facts.rows):,}) are not of the "
            f"space {facts.source}, probably of another model or with other texts. Move the "
            "others, and embed these anew."
        )
    point = _best_alternative(assessment, facts)
    if point is not None and max(point.store, point.queries) >= MIN_RECALL:
        return "choose-anchors", _other_anchors(point, assessment, facts)
    if recall < MIN_RECALL:
        subject = "the store that was written" if facts.is_moved else "translating"
        return "re-embed", (
            f"Re-embed instead: a recall@10 of {recall:.2f} is all that {subject} gives. "
            f"Embedding the {facts.rows:,} texts takes about "
            f"{duration(facts.rows / facts.embed_rate)} at the measured rate."
        )
    if MIN_UNCOVERED <= facts.uncovered_share <= MAX_UNCOVERED:
        count = round(facts.uncovered_share * facts.rows)
        step = "Re-embed" if facts.is_moved else "Translate now, and re-embed"
        about = "" if facts.sample >= facts.rows else "about "
        return "translate-then-re-embed", (
            f"{step} {about}{_count(count)} first: the anchors cover them least "
            f"({facts.uncovered_share:.1%} of the sample are not covered). "
            "`stitchwork migrate --uncovered reject` leaves them out and lists their ids."
        )
    step = "Use the store that was written" if facts.is_moved else "Translate"
    return "translate", (
        f"{step}: {_ways(assessment, facts)} Embedding everything anew takes about "
        f"{duration(facts.rows / facts.embed_rate)}, translating "
        f"{duration(facts.rows / facts.translate_rate)}."
    )


def _cause(assessment: Assessment) -> str:
    """Why rows and texts have nothing in common."""
    if assessment.curve and assessment.curve[-1].store >= assessment.store.recall + RELATED_GAIN:
        return (
            "The store is of another model: with its own rows as anchors, the recall@10 of the "
            f"translated store is {assessment.curve[-1].store:.2f}. `stitchwork assess --anchors` "
            "registers its space."
        )
    return "Check which model the store is of, and that texts and vectors have the same ids."


def _best_alternative(assessment: Assessment, facts: StoreFacts) -> AnchorCurvePoint | None:
    """Anchors from the store with at least 0.05 more recall: no more than now, or the most."""
    minimum = assessment.store.recall + MIN_GAIN
    points = [point for point in assessment.curve if point.store >= minimum]
    no_more = [point for point in points if point.anchors <= facts.anchors]
    candidates = no_more or points
    return candidates[-1] if candidates else None


def _other_anchors(point: AnchorCurvePoint, assessment: Assessment, facts: StoreFacts) -> str:
    is_more = point.anchors > facts.anchors
    comparison = "more" if is_more else "other"
    cause = "" if is_more else ", which are not like the rows of this store"
    step = "anchors and move again" if facts.is_moved else "anchors first"
    return (
        f"Register {comparison} {step}: {point.anchors:,} rows of this store as anchors "
        f"raise the recall@10 of the translated store from {assessment.store.recall:.2f} to about "
        f"{point.store:.2f}, and of translated queries from {assessment.queries.recall:.2f} to "
        f"{point.queries:.2f}. The present anchors are {facts.anchors:,}{cause}. "
        "`stitchwork assess --anchors` registers anchors from the store."
    )


def _ways(assessment: Assessment, facts: StoreFacts) -> str:
    subject = "the store that was written" if facts.is_moved else "the translated store"
    return (
        f"{subject} has a recall@10 of {_interval(assessment.store)} at its {facts.rows:,} rows, "
        f"and translated queries in the store as it is {_interval(assessment.queries)}, of what "
        "embedding everything anew finds."
    )


def _interval(prediction: RecallPrediction) -> str:
    return f"{prediction.recall:.2f} ({prediction.low:.2f} to {prediction.high:.2f})"


def _remarks(assessment: Assessment, facts: StoreFacts, action: Action) -> list[str]:
    remarks = []
    anew = facts.rows / facts.embed_rate
    if action != "re-embed" and anew < SHORT_SECONDS:
        remarks.append(
            f"Embedding everything anew takes only about {duration(anew)}: where that can be done, "
            "it is better than any translation."
        )
    if action != "translate":
        remarks.append(f"As it is, {_ways(assessment, facts)}")
    if assessment.store.rows >= facts.rows:
        remarks.append(
            f"The sample is the whole store of {_count(facts.rows)}: recall is measured on it, and "
            "not predicted."
        )
    if assessment.queries.low > assessment.store.high:
        remarks.append("Translated queries do better, and nothing needs to be moved for them.")
    if action not in ("check-space", "separate-rows") and len(assessment.curve) > 1:
        remarks.append(_curve_remark(assessment, facts))
    if facts.uncovered_share > MAX_UNCOVERED:
        remarks.append(
            f"{facts.uncovered_share:.0%} of the rows are not covered by the anchors: these are "
            "not like the rows of the store."
        )
    return remarks


def _curve_remark(assessment: Assessment, facts: StoreFacts) -> str:
    last = assessment.curve[-1]
    change = last.store - assessment.curve[-2].store
    is_whole = facts.sample >= facts.rows
    if last.anchors < facts.anchors and last.store < assessment.store.recall:
        larger = min(4 * facts.anchors, facts.rows)
        rest = (
            "The store has no more rows to learn it from."
            if is_whole
            else "Whether more anchors from the store would raise the recall shows a sample of "
            f"{larger:,} rows (`--sample`)."
        )
        return (
            f"Half of the sample, {last.anchors:,} rows of the store, are fewer anchors than the "
            f"present {facts.anchors:,}, and give less: {last.store:.2f}. {rest}"
        )
    end = "." if is_whole else "; another one would bring less."
    return (
        f"With anchors from the store, the last doubling, to {last.anchors:,}, brings the recall "
        f"of the translated store {change:+.3f}, to {last.store:.2f}{end}"
    )
