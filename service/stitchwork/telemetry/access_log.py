"""The log of requests: one record each, written many at a time."""

import asyncio
import logging
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from stitchwork.telemetry import logs
from stitchwork.telemetry.request_context import RequestIdFilter

log = logging.getLogger("stitchwork.access")

MESSAGE: Final = "request completed"
FLUSH_SECONDS: Final = 0.1
"""Time after which a record is written; a process that is killed loses those of this time."""
MAX_RECORDS: Final = 1000


class AccessLog:
    """Writes records of requests, as `log` would, at a tenth of its cost.

    Records that a handler of another program or of a test would get go through `log`.
    """

    def __init__(self) -> None:
        self._records: list[tuple[int, float, Mapping[str, Any], Mapping[str, Any]]] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, level: int, fields: Mapping[str, Any]) -> None:
        """Write one record, for the requests of this context.

        Args:
            level: Its level.
            fields: Its fields.
        """
        if not log.isEnabledFor(level):
            return
        if logs.json_lines_stream(log) is None:
            log.log(level, "request completed", extra=dict(fields))
            return
        self._records.append((level, time.time(), fields, RequestIdFilter.ids()))
        if len(self._records) >= MAX_RECORDS:
            self.flush()
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        """Write all records that were not written yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        records, self._records = self._records, []
        stream = logs.json_lines_stream(log)
        if records and stream is not None:
            lines = b"\n".join(_line(*record) for record in records)
            stream.write(lines.decode() + "\n")
            stream.flush()


def _line(level: int, seconds: float, fields: Mapping[str, Any], ids: Mapping[str, Any]) -> bytes:
    """One record as `logs.configure` formats it."""
    record = {"level": logging.getLevelName(level), "logger": log.name, "message": MESSAGE}
    return orjson.dumps(
        {**record, **fields, **ids, "timestamp": datetime.fromtimestamp(seconds, UTC)}
    )
