"""Generated sentences, which need no download."""

from itertools import product
from typing import Final

import numpy as np

SUBJECTS: Final = (
    "the river behind the mill",
    "my phone",
    "a small dog from next door",
    "the new law on rents",
    "our kitchen",
    "the old train to the coast",
    "her second novel",
    "the committee that met on Monday",
)
CLAIMS: Final = (
    "is broken again and nobody knows why",
    "was described in the newspaper",
    "costs far too much for what it does",
    "makes everybody happy",
    "will be gone by tomorrow",
    "looks better than it did last year",
    "needs to be cleaned before the guests arrive",
    "is what I dreamt about",
)
TIMES: Final = (
    "today",
    "after the meeting",
    "in the summer, when the days are long",
    "as I told you",
    "without any warning",
    "whatever the others may say",
    "once the rain has stopped",
    "and that is all there is to it",
)


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of 5 to 25 words.

    Args:
        count: How many, at most 512.
        seed: Seed of the order.
    """
    combinations = [" ".join(parts) for parts in product(SUBJECTS, CLAIMS, TIMES)]
    order = np.random.default_rng(seed).permutation(len(combinations))
    return [combinations[i] for i in order[:count]]
