"""A report of a move, for tests."""

from typing import Any, Final

VERSIONS: Final = {
    "source": "x",
    "source_version": "x1",
    "target": "y",
    "target_version": "y1",
    "bridge": "ridge",
}
REPORT: Final[dict[str, Any]] = {
    "status": "running",
    "source": "a.parquet",
    "target": "b.parquet",
    "versions": VERSIONS,
    "rows": 1,
    "total": 2,
    "written": 1,
}
