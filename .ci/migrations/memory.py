"""Compares the peak memory of moves of 50,000 rows with that of moves of five times as many.

`python .ci/migrations/memory.py`: generated rows of 384 numbers with texts, from Parquet, Lance and
PostgreSQL to the same kind, in a process each. Fails if one grows by more than a tenth.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from interruptions import make_map

from stitchwork.migration import OfflineMap, move, open_store
from stitchwork.migration.postgresql_copy import copy_rows
from tests.support.memory import private
from tests.support.postgresql import postgresql_server

WIDTH: Final = 384
ROWS: Final = (50_000, 250_000)
PAGE_ROWS: Final = 10_000
POLL_SECONDS: Final = 0.02
MAX_GROWTH: Final = 1.1
MEBIBYTE: Final = 2**20


def pages(count: int) -> Iterator[pa.Table]:
    """Generated rows, some at a time."""
    generator = np.random.default_rng(0)
    for start in range(0, count, PAGE_ROWS):
        numbers = generator.normal(size=PAGE_ROWS * WIDTH).astype(np.float32)
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers), WIDTH)
        ids = pa.array(range(start, start + PAGE_ROWS))
        texts = [f"text {i} " * 20 for i in range(start, start + PAGE_ROWS)]
        yield pa.table({"id": ids, "text": texts, "embedding": vectors})


def fill(kind: str, place: str, count: int) -> tuple[str, str]:
    """Fill a store; its URL, and that of a store to move to."""
    if kind == "parquet":
        path = f"{place}/{count}.parquet"
        with pq.ParquetWriter(path, next(pages(PAGE_ROWS)).schema) as writer:
            for table in pages(count):
                writer.write_table(table)
        return path, f"{place}/{count}-moved.parquet"
    if kind == "lance":
        import lancedb

        lancedb.connect(place).create_table(f"n{count}", pages(count), next(pages(1)).schema)
        return f"{place}/n{count}.lance", f"{place}/moved{count}.lance"
    with psycopg.connect(place) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE n{count} (id text PRIMARY KEY, embedding vector, text text)")
        for table in pages(count):
            vectors = table.column("embedding").combine_chunks().flatten().to_numpy()
            ids = [str(id_) for id_ in table.column("id").to_pylist()]
            texts = table.column("text").to_pylist()
            with cursor.copy(f"COPY n{count} FROM STDIN (FORMAT BINARY)") as copy:
                copy.write(copy_rows(ids, vectors.reshape(-1, WIDTH), [texts]))
    return f"{place}&table=n{count}", f"{place}&table=moved{count}"


def run(source: str, target: str, map_file: str, state: str) -> None:
    """Move a store."""
    offline_map = OfflineMap(Path(map_file).read_bytes())
    with open_store(source) as rows, open_store(target) as moved:
        move(rows, moved, offline_map, Path(state))


def peak(program: list[str]) -> int:
    """The peak of the memory of a process that is no page of a file."""
    result = 0
    with subprocess.Popen(program) as process:
        while process.poll() is None:
            with suppress(OSError, KeyError):
                # It may end meanwhile.
                result = max(result, private(process.pid))
            time.sleep(POLL_SECONDS)
    assert process.returncode == 0, program
    return result


def main() -> None:
    """Compare all kinds."""
    generator = np.random.default_rng(1)
    x, y = (generator.normal(size=(1000, width)).astype(np.float32) for width in (WIDTH, 512))
    with TemporaryDirectory() as folder, postgresql_server() as url:
        map_file = Path(folder) / "map"
        map_file.write_bytes(make_map(x, y).data)
        for kind, place in (("lance", folder), ("postgresql", url), ("parquet", folder)):
            peaks = []
            for count in ROWS:
                stores = fill(kind, place, count)
                arguments = [*stores, str(map_file), f"{folder}/{kind}-{count}"]
                peaks.append(peak([sys.executable, __file__, *arguments]))
            sizes = ", ".join(
                f"{peak / MEBIBYTE:.0f} MiB at {count:,} rows"
                for count, peak in zip(ROWS, peaks, strict=True)
            )
            print(f"{kind}: {sizes}")
            assert peaks[1] <= MAX_GROWTH * peaks[0], kind


if __name__ == "__main__":
    run(*sys.argv[1:]) if len(sys.argv) > 1 else main()
