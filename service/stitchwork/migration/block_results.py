"""Results of blocks as Arrow tables, in which they travel between the processes of an engine.

Nothing in them is code: summaries and errors are JSON, rows are Arrow's own format.
"""

from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from stitchwork import errors
from stitchwork.errors import ErrorCode, StitchworkError, UnavailableError
from stitchwork.migration.arrow_store import ArrowStore, TablePayload
from stitchwork.migration.blocks import BlockSummary, Reject
from stitchwork.migration.failure_reasons import ProcessError, foreign_kind
from stitchwork.migration.json_values import decode_json, encode_json
from stitchwork.migration.store import Batch, Id, Payload, RecordPayload, VectorStore

SUMMARY: Final = "summary"
ERROR: Final = "error"
VECTORS: Final = "vectors"
PAYLOAD: Final = "payload"
HIDDEN: Final = "hidden"
SCHEMA: Final = pa.schema(
    [(name, pa.large_binary()) for name in (SUMMARY, ERROR, VECTORS, PAYLOAD, HIDDEN)]
)
"""One row for each block; the columns after the error are those of blocks that are returned."""
ID: Final = "id"
VECTOR: Final = "vector"
RECORD: Final = "record"


def summary_table(summary: BlockSummary) -> Any:
    """The result of a block whose rows are written."""
    return _table({SUMMARY: _summary_json(summary)})


def rows_table(summary: BlockSummary, rows: Batch, source: VectorStore) -> Any:
    """The result of a block whose rows are returned.

    Args:
        summary: The summary.
        rows: The rows; none of them has a fault.
        source: The store that their payload is of.
    """
    payload, hidden = _payload_table(rows.payload, source)
    fields: dict[str, Any] = {SUMMARY: _summary_json(summary), VECTORS: _vectors(rows)}
    return _table(fields | {PAYLOAD: _to_bytes(payload), HIDDEN: orjson.dumps(hidden)})


def error_table(error: StitchworkError) -> Any:
    """The result of a block that failed: engines would hide the error in one of their own."""
    kind = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
    fields = {"kind": kind.__name__, "message": error.message, "code": error.code}
    return _table({ERROR: orjson.dumps(fields | {"cause": foreign_kind(error)})})


def read_result(table: Any) -> tuple[BlockSummary, Batch | None]:
    """The summary of a block, and its rows unless they are written.

    Args:
        table: One row of `SCHEMA`.

    Raises:
        StitchworkError: If the block failed.
    """
    buffers = {name: table.column(name)[0].as_buffer() for name in SCHEMA.names}
    if buffers[ERROR] is not None:
        raise _read_error(orjson.loads(memoryview(buffers[ERROR])))
    summary = _read_summary(orjson.loads(memoryview(buffers[SUMMARY])))
    if buffers[VECTORS] is None:
        return summary, None
    rows, payload = (pa.ipc.open_stream(buffers[name]).read_all() for name in (VECTORS, PAYLOAD))
    column = rows.column(VECTOR).combine_chunks()
    vectors = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    ids: list[Id] = [orjson.loads(id_) for id_ in rows.column(ID).to_pylist()]
    hidden = orjson.loads(memoryview(buffers[HIDDEN]))
    return summary, Batch(ids, vectors, _read_payload(payload, hidden))


def _table(fields: dict[str, Any]) -> Any:
    return pa.table({name: [fields.get(name)] for name in SCHEMA.names}, SCHEMA)


def _to_bytes(table: Any) -> Any:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def _vectors(rows: Batch) -> Any:
    """The ids and vectors of rows."""
    width = rows.vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(rows.vectors, np.float32).ravel())
    # As JSON: a store may have numbers, also unsigned ones, and texts.
    ids = pa.array([orjson.dumps(id_) for id_ in rows.ids], pa.binary())
    vectors = pa.FixedSizeListArray.from_arrays(flat, width)
    return _to_bytes(pa.table({ID: ids, VECTOR: vectors}))


def _payload_table(payload: Payload, source: VectorStore) -> tuple[Any, list[str] | None]:
    """The payload as a table, and its columns that are none; None for a table of records."""
    if isinstance(payload, TablePayload) and isinstance(source, ArrowStore):
        column, id_column = source.vector_column(), source.id_column()
        names = [name for name in payload.table.column_names if name != column]
        return payload.table.select(names), [id_column] if id_column else []
    records = [encode_json(record) for record in payload.records()]
    return pa.table({RECORD: pa.array(records, pa.large_binary())}), None


def _read_payload(table: Any, hidden: list[str] | None) -> Payload:
    if hidden is not None:
        return TablePayload(table, tuple(hidden))
    return RecordPayload([decode_json(data) for data in table.column(RECORD).to_pylist()])


def _summary_json(summary: BlockSummary) -> bytes:
    rejects = [list(reject) for reject in summary.rejects]
    return orjson.dumps({**summary._asdict(), "rejects": rejects})


def _read_summary(fields: dict[str, Any]) -> BlockSummary:
    rejects = [Reject(*values) for values in fields.pop("rejects")]
    return BlockSummary(rejects=rejects, **fields)


def _read_error(fields: dict[str, Any]) -> StitchworkError:
    kind = getattr(errors, str(fields["kind"]), UnavailableError)
    error: StitchworkError = kind(fields["message"], code=ErrorCode.parse(fields["code"]))
    if fields["cause"] is not None:
        error.__cause__ = ProcessError(fields["cause"])
    return error
