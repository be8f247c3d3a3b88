"""Maps and stores of generated rows for tests of moves."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import BridgeName, FittedSpace, compose
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.migration.offline_map import OfflineMap
from tests.support.latent_spaces import make_spaces

WIDTH, TARGET_WIDTH, MAX_ROWS = 16, 20, 1100
SPACES = make_spaces(200, WIDTH, TARGET_WIDTH, n=MAX_ROWS)


@cache
def make_map(bridge: BridgeName = "ridge", *, unit: bool = True, version: str = "x1") -> OfflineMap:
    """A map between two generated spaces, x and y."""
    source = FittedSpace(Frame.from_anchors(SPACES.x_anchors))
    target = FittedSpace(Frame.from_anchors(SPACES.y_anchors), unit=unit)
    metadata = {"bridge": bridge, "source": "x", "source_version": version}
    metadata |= {"target": "y", "target_version": "y1"}
    lengths = np.linalg.norm(SPACES.x_anchors, axis=1)
    metadata |= {"source_norm_mean": str(lengths.mean()), "source_norm_std": str(lengths.std())}
    composed = compose(bridge, source, target)
    coverage = Coverage.from_frame(source.frame)
    return OfflineMap(map_to_safetensors(composed, metadata, coverage))


def make_vectors(count: int) -> Any:
    """Rows of the space x that its anchors cover, (n, 16) float32; n is at most 1,003."""
    covered = make_map().apply(SPACES.x.astype(np.float32)).covered
    vectors = SPACES.x.astype(np.float32)[covered][:count]
    assert len(vectors) == count
    return vectors


def write_parquet(path: Path, count: int, *, with_faults: bool = False) -> Any:
    """A Parquet file of rows with ids, texts and numbers, in several row groups; its table."""
    vectors = make_vectors(count).tolist()
    if with_faults:
        vectors[3] = None
        vectors[5] = vectors[5][:4]
        vectors[7][0] = float("nan")
    columns = {
        "label": pa.array(range(count), pa.int16()),
        "embedding": pa.array(vectors, pa.list_(pa.float32())),
        "id": [f"r{i}" for i in range(count)],
        "text": [f"text {i}\nof two lines" for i in range(count)],
    }
    table = pa.table(columns)
    pq.write_table(table, path, row_group_size=max(1, count // 3))
    return table
