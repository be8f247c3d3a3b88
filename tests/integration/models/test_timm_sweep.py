"""The sweep over timm's architectures: a few of them here, all with `-m sweep`."""

import pytest

from tests.support.timm_sweep import (
    DIFFERENT,
    EQUAL,
    PATH,
    REFUSED,
    WIDTH,
    architectures,
    sweep,
    table,
)


def test_the_smallest_of_a_family_is_computed_and_the_others_are_measured() -> None:
    names = ["mobilenetv3_small_050", "mobilenetv3_small_100", "qwen3_vit_88m_enc", "levit_128s"]
    rows = {row.name: row for row in sweep(names)}
    assert list(rows) == names
    outcomes = {name: (row.outcome, row.width) for name, row in rows.items()}
    assert outcomes == {
        "mobilenetv3_small_050": (EQUAL, 1024),
        "mobilenetv3_small_100": (WIDTH, 1024),
        "qwen3_vit_88m_enc": (REFUSED, 0),
        "levit_128s": (EQUAL, 384),
    }
    assert rows["mobilenetv3_small_050"].classifier == EQUAL
    assert rows["levit_128s"].classifier == EQUAL
    text = table(list(rows.values()), "2000-01-01")
    assert "as of 2000-01-01" in text
    assert "| equal (computed) | 2 |" in text
    assert "Silently different: 0." in text


def test_the_documented_table_has_no_silent_difference() -> None:
    assert "Silently different: 0." in PATH.read_text()


@pytest.mark.sweep
@pytest.mark.timeout(1800)
def test_no_architecture_is_silently_different() -> None:
    rows = sweep(architectures())
    assert len(rows) > 1000
    assert [row for row in rows if DIFFERENT in (row.outcome, row.classifier[:9])] == []
