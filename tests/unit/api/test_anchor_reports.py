"""The largest of many values, of which only a few are sorted."""

import numpy as np
import pytest

from stitchwork.api.reports.anchor_reports import largest_indices


@pytest.mark.parametrize("count", [1, 5, 40, 50])
def test_largest_indices_are_those_of_a_stable_sort(count: int) -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(-4, 5, (64, 40)) / 4).astype(np.float32)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
    assert [row.tolist() for row in largest_indices(values, count)] == expected.tolist()
