"""The columns of tables of spaces and heads."""

from typing import Any

import pytest

from stitchwork.cli.resource_columns import COLUMNS

PROGRESS = {"done": 0, "total": 48}
FAILED = {"version": "5" * 32, "status": "failed", "progress": PROGRESS, "reason": "no such folder"}
PENDING = {"version": "6" * 32, "status": "pending", "progress": PROGRESS}


@pytest.mark.parametrize("kind", ["spaces", "heads"])
@pytest.mark.parametrize(
    ("record", "status", "reason"),
    [
        ({"id": "x", **FAILED}, "failed", "no such folder"),
        ({"id": "x", **PENDING}, "pending", None),
        ({"id": "x", **PENDING, "status": "ready"}, "ready", None),
        (
            {"id": "x", "version": "7", "status": "ready", "pending": PENDING},
            "ready (next pending)",
            None,
        ),
        (
            {"id": "x", "version": "7", "status": "ready", "pending": FAILED},
            "ready (next failed)",
            "no such folder",
        ),
    ],
)
def test_failed_registration_has_its_reason(
    kind: str, record: dict[str, Any], status: str, reason: str | None
) -> None:
    row = {name: read(record) for name, read in COLUMNS[kind]}
    assert row["status"] == status
    assert row["reason"] == reason
