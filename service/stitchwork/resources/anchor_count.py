"""Sets of so few anchors that a translation through them is doubtful."""

from typing import Final

MIN_ANCHORS: Final = 64
"""With fewer, coverage is not computed either.

With 16, 32, 64, 100 and 300 anchors a linear head keeps 0.23, 0.40, 0.64, 0.75 and 0.94 of the
weaker native accuracy (banking77, MiniLM and Universal Sentence Encoder, `exp`, seed 0, three
draws; `stitchwork evaluate banking77 --only translation --max-rows 2500`).
"""
RECOMMENDED_ANCHORS: Final = 300


def anchor_count_warnings(count: int) -> list[str]:
    """One sentence if a set has too few anchors, otherwise none.

    Args:
        count: Number of anchors of the set.
    """
    if count >= MIN_ANCHORS:
        return []
    return [
        f"{count} anchors are few: a translation through fewer than {MIN_ANCHORS} is doubtful, and "
        "inputs that the anchors do not cover are not recognised. Register the spaces on a set of "
        f"{RECOMMENDED_ANCHORS} anchors or more"
    ]
