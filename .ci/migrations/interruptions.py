"""Moves 10,003 rows of banking77 by each connector, with ten processes killed in each move.

`python .ci/migrations/interruptions.py DATA CACHE`: from all-MiniLM to Universal Sentence Encoder
and to all-mpnet, from each kind of store to the same kind. Each of ten moves is killed at a seeded
event, at least one in each phase, and resumed: its rows, in the order of their ids, must be those
of a move that nothing disturbed, with the ids and payloads of the source. Prints a line for each,
and fails at the first that differs.
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from embeddings import embed, read_texts

from stitchwork.export.safetensors_export import map_to_safetensors
from stitchwork.geometry.bridges import FittedSpace, compose
from stitchwork.geometry.coverage import Coverage
from stitchwork.geometry.frame import Frame
from stitchwork.migration import OfflineMap
from tests.support.filled_stores import KINDS, Floats, fill_store, store_url
from tests.support.interrupted_moves import check_interrupted_moves, contents
from tests.support.postgresql import postgresql_server
from tests.support.search_server import search_server

ANCHORS: Final = 1000
BLOCK_ROWS: Final = 2048
KILLS: Final = 10
SOURCE: Final = "minilm"
TARGETS: Final = ("use", "mpnet")
FORKED: Final = ("chroma", "milvus", "parquet", "postgresql", "qdrant", "redis")
"""Kinds whose clients may be imported before a process is forked."""


def make_map(x: Floats, y: Floats) -> OfflineMap:
    """A map of some rows as anchors, by the bridge exp."""
    anchors = np.random.default_rng(0).permutation(len(x))[:ANCHORS]
    source, target = (
        FittedSpace(Frame.from_anchors(side[anchors].astype(np.float64)), unit=unit)
        for side, unit in ((x, False), (y, True))
    )
    metadata = {"bridge": "exp", "source": "old", "source_version": "1"}
    metadata |= {"target": "new", "target_version": "1"}
    coverage = Coverage.from_frame(source.frame)
    return OfflineMap(map_to_safetensors(compose("exp", source, target), metadata, coverage))


@contextmanager
def filled(kind: str, folder: Path, rows: Floats, texts: list[str]) -> Iterator[tuple[str, str]]:
    """The URLs of a store of rows and, with `{}` in place of a number, of stores to move to."""
    if kind == "postgresql":
        with postgresql_server() as url:
            _fill_postgresql(url, rows, texts)
            yield f"{url}&table=docs", f"{url}&table=moved_{{}}"
    elif kind == "redis":
        with search_server() as url:
            yield fill_store(kind, url, rows, texts), store_url(kind, url, "moved-{}")
    elif kind == "parquet":
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
        ids = [f"r{i}" for i in range(len(texts))]
        table = pa.table({"id": ids, "label": range(len(texts)), "text": texts, "v": vectors})
        pq.write_table(table, folder / "docs.parquet")
        yield f"{folder}/docs.parquet", f"{folder}/moved-{{}}.parquet"
    else:
        yield fill_store(kind, folder, rows, texts), store_url(kind, f"{folder}/{{}}", "moved")


def _fill_postgresql(url: str, rows: Floats, texts: list[str]) -> None:
    columns = "id bigint PRIMARY KEY, label int, text text NOT NULL, embedding vector, meta jsonb"
    with psycopg.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute(f"CREATE TABLE docs ({columns})")
        with cursor.copy("COPY docs FROM STDIN") as copy:
            for i, (row, text) in enumerate(zip(rows, texts, strict=True)):
                copy.write_row((i, i, text, str(row.tolist()), json.dumps({"n": [i]})))


def check(kind: str, rows: Floats, texts: list[str], offline_map: OfflineMap, seed: int) -> str:
    """Kill moves of a store, compare them, and name the events that they were killed at."""
    # Another user runs PostgreSQL if this one is root, and servers have short socket names.
    with TemporaryDirectory(prefix="moves") as name:
        folder, states = Path(name), Path(name) / "states"
        states.mkdir()
        with filled(kind, folder, rows, texts) as (source, target):
            modules = [f"{kind}_store"] if kind in FORKED else []
            killed = check_interrupted_moves(
                source, target, states, block=BLOCK_ROWS, kills=KILLS, seed=seed,
                modules=modules, offline_map=offline_map,
            )  # fmt: skip
            before, after = (
                sorted(contents(url), key=lambda row: int(json.loads(row[2])["label"]))
                for url in (source, target.replace("{}", "0"))
            )
    assert len(after) == len(texts)
    assert [(row[0], row[2]) for row in after] == [(row[0], row[2]) for row in before]
    moved = np.array([np.frombuffer(row[1], np.float32) for row in after])
    expected = offline_map.apply(rows).rows
    np.testing.assert_allclose(moved, expected, atol=1e-5)
    return ", ".join(killed)


def main(data: Path, cache: Path, *kinds: str) -> None:
    """Check all kinds, or some."""
    texts = read_texts(data, "banking77")
    rows = embed(data, cache, "banking77", SOURCE)
    for seed, encoder in enumerate(TARGETS):
        offline_map = make_map(rows, embed(data, cache, "banking77", encoder))
        for kind in kinds or ("parquet", "postgresql", *KINDS):
            start = time.perf_counter()
            killed = check(kind, rows, texts, offline_map, seed)
            seconds = time.perf_counter() - start
            print(f"{kind} to {encoder}, {len(texts)} rows, {seconds:.0f} s: killed at {killed}")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
