"""Lance data sets as stores of raw inputs."""

from stitchwork.migration.item_stores import ArrowItems
from stitchwork.migration.lancedb_store import LanceDataSet


class LanceItems(ArrowItems, LanceDataSet):
    """The rows of a Lance data set."""
