"""Times moves of generated rows by the local engine, and by Ray on one node and on two.

`python .ci/ray/speed.py [ROWS] [ROUNDS]`: vectors of 384 numbers to 768 by 1,500 anchors and the
bridge exp, in Parquet. Each node has one processor, and the local engine one thread. The three take
turns; the medians of their rows per second, and their peak memory, are printed.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import resource
import statistics
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from moves import Nodes

from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.migration import OfflineMap, move, open_store
from stitchwork.migration.local_engine import LOCAL, Engine
from stitchwork.migration.ray_engine import RayEngine

WIDTH, TARGET_WIDTH, ANCHORS = 384, 768, 1500
GROUP_ROWS = 65_536


def make_map() -> OfflineMap:
    """A map of generated anchors."""
    generator = np.random.default_rng(0)
    anchors = [generator.normal(size=(ANCHORS, width)) for width in (WIDTH, TARGET_WIDTH)]
    source, target = (FittedSpace(Frame.from_anchors(rows), unit=True) for rows in anchors)
    metadata = {"bridge": "exp", "source": "x", "source_version": "1"}
    metadata |= {"target": "y", "target_version": "1"}
    coverage = Coverage.from_frame(source.frame)
    return OfflineMap(map_to_safetensors(compose("exp", source, target), metadata, coverage))


def write_source(path: Path, rows: int) -> None:
    """Rows with ids and texts in row groups of moderate size."""
    generator = np.random.default_rng(1)
    type_ = pa.list_(pa.float32(), WIDTH)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("embedding", type_)])
    with pq.ParquetWriter(path, schema, use_dictionary=["text"]) as writer:
        for start in range(0, rows, GROUP_ROWS):
            count = min(GROUP_ROWS, rows - start)
            flat = pa.array(generator.normal(size=count * WIDTH).astype(np.float32))
            ids = pa.array(range(start, start + count))
            texts = pa.array([f"text {i}" for i in range(start, start + count)])
            vectors = pa.FixedSizeListArray.from_arrays(flat, WIDTH)
            table = pa.Table.from_arrays([ids, texts, vectors], schema=schema)
            writer.write_table(table, GROUP_ROWS)


def rate(source: Path, offline_map: OfflineMap, engine: Engine) -> float:
    """Rows per second of one move, connecting to Ray included."""
    target, state = source.with_name("target.parquet"), source.with_name("state")
    with open_store(str(source)) as rows, open_store(str(target)) as moved:
        result = move(rows, moved, offline_map, state, engine=engine)
    target.unlink()
    rmtree(state)
    return result.rows / result.seconds


def worker_bytes() -> int:
    """Peak memory that a process of Ray's tasks has had."""
    peaks = [0]
    for process in psutil.process_iter(["cmdline"]):
        if "ray::" in " ".join(process.info["cmdline"] or ()):
            lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
            peaks += [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def main(rows: int = 1_000_000, rounds: int = 3) -> None:
    """Print the figures."""
    offline_map = make_map()
    rates: dict[str, list[float]] = {"local": [], "one node": [], "two nodes": []}
    peaks = dict.fromkeys(rates, 0)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.parquet"
        write_source(source, rows)
        nodes = Nodes(1)
        engine = RayEngine(nodes.address)
        try:
            for _ in range(rounds):
                rates["one node"].append(rate(source, offline_map, engine))
                peaks["one node"] = max(peaks["one node"], worker_bytes())
                nodes.add()
                rates["two nodes"].append(rate(source, offline_map, engine))
                peaks["two nodes"] = max(peaks["two nodes"], worker_bytes())
                nodes.kill()
                rates["local"].append(rate(source, offline_map, LOCAL))
        finally:
            nodes.shutdown()
    peaks["local"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    medians = {name: statistics.median(values) for name, values in rates.items()}
    for name, value in medians.items():
        print(f"{name:10} {value:10,.0f} rows/s {peaks[name] / 2**20:8,.0f} MiB")
    pairs = zip(rates["two nodes"], rates["one node"], rates["local"], strict=True)
    ratios = [(two / one, one / local) for two, one, local in pairs]
    print(f"two nodes / one node {statistics.median(r for r, _ in ratios):.2f}")
    print(f"one node / local {statistics.median(r for _, r in ratios):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
