"""Times moves of generated rows by the local engine, and by Ray on one node and on two.

`python .ci/ray/speed.py [ROWS] [ROUNDS] [TARGET]`: vectors of 384 numbers to 768 by 1,500 anchors
and the bridge exp, in Parquet, to the TARGET `target.parquet` or, without the writing of one file
of all parts at the end, `target` (the default). Each node has one processor, and the local engine
one thread. The three take turns; the medians of their rows per second, of the processor time of a
row in the command and its tasks, and of the largest memory of one of these processes are printed.
"""

import os

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

import statistics
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from shutil import rmtree
from typing import NamedTuple, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from nodes import Nodes

from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.migration import OfflineMap, move, open_store
from stitchwork.migration.local_engine import LOCAL, Engine
from stitchwork.migration.ray_engine import RayEngine

WIDTH, TARGET_WIDTH, ANCHORS = 384, 768, 1500
GROUP_ROWS = 65_536
SAMPLE_SECONDS = 0.1


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


class Run(NamedTuple):
    """What one move took.

    Attributes:
        rows_per_second: Its rate, connecting to Ray included.
        microseconds: Processor time of a row.
        peak_bytes: The largest memory of one process.
    """

    rows_per_second: float
    microseconds: float
    peak_bytes: int


class Processes:
    """The processor time and memory of this process and of Ray's tasks, sampled in a thread."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._begins: dict[int, float] = {}
        self.peak_bytes = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._sample()
        own = os.getpid()
        self._begins = {own: self._seconds[own]}
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self._sample()

    def seconds(self) -> float:
        """Processor time so far."""
        return sum(self._seconds.values()) - sum(self._begins.values())

    def _watch(self) -> None:
        while not self._end.wait(SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        own = psutil.Process()
        for process in [own, *own.children(recursive=True)]:
            with suppress(psutil.Error):
                if process.pid == own.pid or "ray::" in " ".join(process.cmdline()):
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
                    self.peak_bytes = max(self.peak_bytes, process.memory_info().rss)


def run(source: Path, name: str, offline_map: OfflineMap, engine: Engine) -> Run:
    """Move the source to a file or folder, and remove it again."""
    target, state = source.with_name(name), source.with_name("state")
    with (
        Processes() as processes,
        open_store(str(source)) as rows,
        open_store(str(target)) as moved,
    ):
        result = move(rows, moved, offline_map, state, engine=engine)
    rmtree(target) if target.is_dir() else target.unlink()
    rmtree(state)
    microseconds = 1e6 * processes.seconds() / result.rows
    return Run(result.rows / result.seconds, microseconds, processes.peak_bytes)


def main(rows: int = 1_000_000, rounds: int = 3, target: str = "target") -> None:
    """Print the figures."""
    offline_map = make_map()
    runs: dict[str, list[Run]] = {"local": [], "one node": [], "two nodes": []}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source.parquet"
        write_source(source, rows)
        nodes = Nodes(1)
        engine = RayEngine(nodes.address)
        try:
            for _ in range(rounds):
                runs["one node"].append(run(source, target, offline_map, engine))
                nodes.add()
                runs["two nodes"].append(run(source, target, offline_map, engine))
                nodes.kill()
                runs["local"].append(run(source, target, offline_map, LOCAL))
        finally:
            nodes.shutdown()
    for name, ones in runs.items():
        rate, microseconds, peak = (statistics.median(values) for values in zip(*ones, strict=True))
        print(f"{name:10} {rate:10,.0f} rows/s {microseconds:6.1f} µs {peak / 2**20:8,.0f} MiB")
    rates = ([one.rows_per_second for one in ones] for ones in runs.values())
    ratios = [(two / one, one / local) for local, one, two in zip(*rates, strict=True)]
    print(f"two nodes / one node {statistics.median(r for r, _ in ratios):.2f}")
    print(f"one node / local {statistics.median(r for _, r in ratios):.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:4])
