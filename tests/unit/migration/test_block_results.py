"""Results of blocks between processes: what arrives is what was sent, and none of it is code."""

import ast
import math
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import stitchwork
from stitchwork.errors import ConflictError, ErrorCode, UnavailableError
from stitchwork.migration.block_results import (
    SCHEMA,
    error_table,
    read_result,
    rows_table,
    summary_table,
)
from stitchwork.migration.blocks import BlockSummary, Reject
from stitchwork.migration.json_values import exact_number
from stitchwork.migration.store import Batch, Record, RecordPayload
from stitchwork.migration.stores import open_store
from tests.support.moved_stores import make_map, write_parquet

SUMMARY = BlockSummary(
    cursor=[12, 3],
    rows=5,
    rejects=[Reject("r3", "no vector", is_embedded=False), Reject(2**64 - 1, "é", True)],
    uncovered=1,
    mismatched=2,
    length_warning="they are long",
    truncated=3,
)


def test_summary_arrives_without_rows() -> None:
    table = summary_table(SUMMARY)
    assert table.schema == SCHEMA
    assert read_result(table) == (SUMMARY, None)


@pytest.mark.parametrize("target", ["b.jsonl", "b.parquet"])
def test_rows_of_a_table_arrive_with_ids_and_payload(tmp_path: Path, target: str) -> None:
    write_parquet(tmp_path / "a.parquet", 50)
    written = []
    for name in ("sent", "local"):
        path = tmp_path / name
        path.mkdir()
        with open_store(f"{tmp_path}/a.parquet") as source, open_store(f"{path}/{target}") as store:
            store.create(source, 16, path, make_map().versions._asdict())
            for block, batch in enumerate(source.scan(20)):
                result = rows_table(SUMMARY, batch, source)
                # A part of a larger one, as engines pass blocks on.
                summary, rows = read_result(
                    result if name == "sent" else rows_table(SUMMARY, batch, source)
                )
                assert summary == SUMMARY
                assert rows is not None
                store.write(block, rows if name == "sent" else batch)
            store.finish()
        is_lines = target.endswith(".jsonl")
        written.append((path / target).read_text() if is_lines else pq.read_table(path / target))
    assert written[0] == written[1]


@pytest.mark.parametrize("ids", [["a", "é"], [-1, 2], [-1, 2**64 - 1], [1, "a"]])
def test_rows_of_records_arrive_with_ids_and_payload(tmp_path: Path, ids: list[int | str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"id": 1, "embedding": [1.0]}\n')
    records: list[Record] = [
        {"text": "é", "tags": [1, None]},
        {"score": math.nan, "n": exact_number("0.12345678901234567890123")},
    ]
    vectors = np.arange(6, dtype=np.float32).reshape(2, 3)
    with open_store(f"{tmp_path}/a.jsonl") as source:
        _, rows = read_result(
            rows_table(SUMMARY, Batch(ids, vectors, RecordPayload(records)), source)
        )
    assert rows is not None
    assert list(rows.ids) == ids
    np.testing.assert_array_equal(rows.vectors, vectors)
    assert repr(rows.payload.records()) == repr(records)


def test_errors_arrive_with_their_class_and_code() -> None:
    error = ConflictError("a, not b", code=ErrorCode.ENCODER_MISMATCH)
    with pytest.raises(ConflictError, match="a, not b") as raised:
        read_result(error_table(error))
    assert raised.value.code is ErrorCode.ENCODER_MISMATCH

    class OtherError(UnavailableError):
        """A class of another module."""

    with pytest.raises(UnavailableError, match="later"):
        read_result(error_table(OtherError("later")))


def test_only_messages_between_a_process_and_its_children_are_pickled() -> None:
    package = Path(stitchwork.__file__).parent
    names = ("pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve")
    users = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            imports = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            imports += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.partition(".")[0] in names for name in imports):
                users.add(path.relative_to(package).as_posix())
    assert users == {"processes/transport.py"}
