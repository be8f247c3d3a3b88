"""Moves stores of vectors from the space of one encoder to that of another.

A `VectorStore` is read and written through its own client; `open_store` opens one by its URL or
path. The rows are translated on this machine by a map that the service exports once, so that all of
them are of the same versions and the same bridge.
"""

from stitchwork.migration.local_engine import move
from stitchwork.migration.move_reporter import MoveReporter
from stitchwork.migration.move_results import MoveResult
from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.store import VectorStore
from stitchwork.migration.stores import open_store

__all__ = ["MoveReporter", "MoveResult", "OfflineMap", "VectorStore", "move", "open_store"]
