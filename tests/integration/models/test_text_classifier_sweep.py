"""The sweep over transformers' text classifiers: a few of them here, all with `-m sweep`."""

import pytest

from tests.support.text_classifier_sweep import (
    DIFFERENT,
    EQUAL,
    PATH,
    REFUSED,
    architectures,
    sweep,
    table,
)

pytestmark = pytest.mark.models


def test_architectures_are_equal_or_refused_with_the_words() -> None:
    rows = sweep(["bert", "gpt_neox", "modernbert", "bart", "longformer", "fnet", "funnel"])
    outcomes = {row.name: (row.outcome, row.pooling, row.layers) for row in rows}
    assert outcomes == {
        "bert": (EQUAL, "cls", "linear, tanh, linear"),
        "gpt_neox": (EQUAL, "last", "linear"),
        "modernbert": (EQUAL, "cls", "linear, gelu, layer_norm, linear"),
        "bart": (REFUSED, "", ""),
        # It attends to the first token from everywhere only when it classifies.
        "longformer": (EQUAL, "cls", "linear, tanh, linear"),
        # Their rows depend on padding.
        "fnet": (EQUAL, "cls", "linear, tanh, linear"),
        "funnel": (EQUAL, "cls", "linear, tanh, linear"),
    }
    details = {row.name: row.detail for row in rows}
    assert "bart is an encoder-decoder model" in details["bart"]
    text = table(rows, "2000-01-01")
    assert "as of 2000-01-01" in text
    assert "| equal (computed) | 6 |" in text
    assert "Silently different: 0." in text


def test_the_documented_table_has_no_silent_difference() -> None:
    assert "Silently different: 0." in PATH.read_text()


@pytest.mark.sweep
@pytest.mark.timeout(3600)
def test_no_architecture_is_silently_different() -> None:
    rows = sweep(architectures())
    assert len(rows) > 100
    assert [row for row in rows if row.outcome == DIFFERENT] == []
    assert sum(row.outcome == EQUAL for row in rows) > 90
