"""Columns of PostgreSQL as payloads."""

import numpy as np

from stitchwork.migration.postgresql_columns import ColumnPayload


def test_payload_without_columns_has_an_empty_record_for_each_row() -> None:
    payload = ColumnPayload([], [], 3)
    assert payload.records() == [{}, {}, {}]
    assert payload.select(np.array([0, 2])).records() == [{}, {}]
