"""Moves of stores: a Parquet file, against a script of pyarrow and numpy, with their memory."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.cores import pinned_to
from benchmarks.measure import BenchmarkContext, BenchmarkResult
from benchmarks.translating import anchors, make_pair_map
from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import BridgeName
from stitchwork.migration.offline_map import MapVersions

WIDTH: Final = 384
ANCHORS: Final = 1500
SIZES: Final = (200_000, 1_000_000)
GROUP_ROWS: Final = 50_000
RATE_GOAL: Final = 0.9
MEMORY_GOAL: Final = 1.2
POLL_SECONDS: Final = 0.02
MEBIBYTE: Final = 1024
"""In the kilobytes of /proc."""


class Run(NamedTuple):
    """A move by a process.

    Attributes:
        rate: Rows per second.
        memory: Peak of the memory that is no file's, in MiB.
    """

    rate: float
    memory: float


def moves(context: BenchmarkContext) -> list[BenchmarkResult]:
    """A move of a Parquet file of a million rows by both bridges, in turns with the script."""
    results, rounds = [], context.rounds
    with (
        tempfile.TemporaryDirectory(prefix="stitchwork-benchmark-") as name,
        pinned_to(range(os.cpu_count() or 1)),
    ):
        folder = Path(name)
        small, large = (_write_store(folder, count) for count in SIZES)
        for bridge in ("ridge", "exp"):
            map_file = _write_map(folder, bridge)
            few = [_run(program, small, SIZES[0], map_file) for program in PROGRAMS]
            turns = [
                [_run(program, large, SIZES[1], map_file) for program in PROGRAMS]
                for _ in range(rounds)
            ]
            ours, partner = (list(side) for side in zip(*turns, strict=True))
            details = {
                "anchors": ANCHORS,
                "memory in MiB": {
                    f"{size:,} rows": {"ours": round(max(own)), "partner": round(max(other))}
                    for size, own, other in (
                        (SIZES[0], [few[0].memory], [few[1].memory]),
                        (SIZES[1], [run.memory for run in ours], [run.memory for run in partner]),
                    )
                },
                f"rate at {SIZES[0]:,} rows": round(few[0].rate / few[1].rate, 3),
            }
            rates = [run.rate for run in ours], [run.rate for run in partner]
            memory = [run.memory for run in ours], [few[0].memory]
            case = f"migrate {SIZES[1]:,} x {WIDTH}, {bridge}"
            results += [
                BenchmarkResult(case, BASELINE, "rows/s", *rates, RATE_GOAL, True, details),
                BenchmarkResult(
                    f"{case}, memory", f"{SIZES[0]:,} rows", "MiB", *memory, MEMORY_GOAL, False
                ),
            ]
    return results


PROGRAMS: Final = ("benchmarks.service_move", "benchmarks.plain_move")
BASELINE: Final = "a script of pyarrow and numpy that reads, multiplies and writes the same"


def _run(program: str, source: Path, rows: int, map_file: Path) -> Run:
    with _target(source) as target:
        command = [sys.executable, "-P", "-m", program, *map(str, (source, target, map_file))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
            memory = _peak_memory(process)
            seconds = process.stdout.read() if process.stdout else ""
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
    return Run(rows / float(seconds), memory / MEBIBYTE)


@contextmanager
def _target(source: Path) -> Iterator[Path]:
    """A file that does not exist, and is removed at the end, with the state of a move to it."""
    target = source.with_name("moved.parquet")
    try:
        yield target
    finally:
        target.unlink(missing_ok=True)
        rmtree(target.with_name(f"{target.name}.migration"), ignore_errors=True)


def _peak_memory(process: "subprocess.Popen[str]") -> int:
    """The most memory that a process has, in KiB, without the pages of files that it maps."""
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while True:
        try:
            lines = status.read_text().splitlines()
        except ProcessLookupError:
            lines = []
        peak = max([peak, *(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))])
        try:
            process.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return peak


def _write_store(folder: Path, count: int) -> Path:
    """A file of rows of the first space, with ids and texts."""
    path, rng = folder / f"{count}.parquet", np.random.default_rng(1)
    writer = None
    for start in range(0, count, GROUP_ROWS):
        rows = rng.normal(size=(GROUP_ROWS, WIDTH)).astype(np.float32)
        offsets = pa.array(np.arange(GROUP_ROWS + 1, dtype=np.int32) * WIDTH)
        numbers = range(start, start + GROUP_ROWS)
        table = pa.table(
            {
                "id": [f"doc-{i}" for i in numbers],
                "text": [f"what does document {i} say?" for i in numbers],
                "embedding": pa.ListArray.from_arrays(offsets, pa.array(rows.ravel())),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()
    return path


def _write_map(folder: Path, bridge: BridgeName) -> Path:
    pair_map = make_pair_map(bridge, *anchors(ANCHORS, WIDTH))
    versions = MapVersions("x", "1", "y", "1", bridge)._asdict()
    path = folder / f"{bridge}.safetensors"
    path.write_bytes(map_to_safetensors(pair_map.map, versions, pair_map.coverage))
    return path
