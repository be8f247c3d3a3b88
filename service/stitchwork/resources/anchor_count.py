"""Sets of so few anchors that a translation through them is doubtful."""

from typing import Final

MIN_ANCHORS: Final = 64
"""With fewer, coverage is not computed either. Through 64 random questions of banking77 (MiniLM,
Universal Sentence Encoder, `exp`, five draws) a linear head keeps 0.62 of the weaker native
accuracy on all 77 kinds of questions and 0.96 on ten of them; through 300, 0.95 and 1.00."""
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
