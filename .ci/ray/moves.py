"""Moves and embeds stores on a cluster of two nodes, one of which is killed, and compares results.

The cluster has a head without processors and nodes of one processor each, in separate raylets.
Prints a line for each check, and fails at the first that does not hold.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from shutil import rmtree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from nodes import Nodes
from pyarrow import fs

from stitchwork.errors import ConflictError, UnavailableError
from stitchwork.migration import MoveResult, move, open_store
from stitchwork.migration.embedding import Embedding
from stitchwork.migration.item_readers import FieldItems
from stitchwork.migration.item_stores import open_items
from stitchwork.migration.local_engine import LOCAL, Engine, StoreMove
from stitchwork.migration.ray_engine import RayEngine
from stitchwork.migration.space_encoder import SpaceEncoder
from stitchwork.migration.stores import client_errors
from tests.support.interrupted_moves import contents
from tests.support.moved_stores import make_map, make_vectors
from tests.support.space_encoders import make_encoder, save_model

ROWS, BLOCK_ROWS = 20_000, 128
EMBEDDED_ROWS = 5_000


def write_source(path: Path) -> None:
    """A Parquet file of rows with ids and texts, some of which cannot be translated."""
    rows = make_vectors(1000)
    noise = np.random.default_rng(1).normal(size=(ROWS, rows.shape[1])) / 100
    vectors = (rows[np.arange(ROWS) % len(rows)] + noise).astype(np.float32)
    vectors[::997] = np.nan
    flat = pa.array(vectors.ravel())
    columns = {
        "id": [f"r{i}" for i in range(ROWS)],
        "text": [f"text {i}" for i in range(ROWS)],
        "embedding": pa.FixedSizeListArray.from_arrays(flat, rows.shape[1]),
    }
    pq.write_table(pa.table(columns), path, row_group_size=5000)


def run(
    source: Path,
    target: str,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MoveResult:
    """Move a store."""
    state = source.with_name(f"{Path(target.split('?')[0]).name}.state")
    with open_store(str(source)) as rows, open_store(target) as moved:
        return move(
            rows, moved, make_map(), state, block_rows=BLOCK_ROWS, progress=progress, engine=engine
        )


def check_equal(folder: Path, target: str, expected: str = "local.parquet") -> None:
    """Compare a file, and the rejects of its move, with those of another."""
    assert pq.read_table(folder / target).equals(pq.read_table(folder / expected)), target
    rejects = [(folder / f"{name}.state/rejects.jsonl").read_bytes() for name in (target, expected)]
    assert rejects[0] == rejects[1], target


def at(rows: int, action: Callable[[], object]) -> Callable[[int, int], None]:
    """What runs an action once when so many rows are done."""
    is_pending = [True]

    def progress(done: int, total: int) -> None:
        if done >= rows and is_pending[0]:
            is_pending[0] = False
            action()

    return progress


def check_moves(folder: Path) -> None:
    """Run all checks in an empty folder."""
    source = folder / "source.parquet"
    write_source(source)
    local = run(source, f"{folder}/local.parquet", LOCAL)
    begin = time.perf_counter()
    nodes = Nodes(2)
    report(f"a cluster of two nodes, started in {time.perf_counter() - begin:.1f} s")
    engine = RayEngine(nodes.address)
    try:
        result = run(source, f"{folder}/two.parquet", engine)
        check_equal(folder, "two.parquet")
        assert result.written == local.written < ROWS
        report(f"two nodes: equal to the local engine, {result.seconds:.1f} s")
        result = run(source, f"{folder}/killed.parquet", engine, at(ROWS // 4, nodes.kill))
        check_equal(folder, "killed.parquet")
        report(f"one of two nodes killed in the middle: equal, {result.seconds:.1f} s")
        nodes.add()
        check_killed_driver(source, nodes.address)
        check_other_targets(source, engine)
        if "AWS_ENDPOINT_URL" in os.environ:
            check_object_store(source, engine)
        check_sources(source, engine)
        check_embeddings(source, nodes)
        check_refusals(source)
    finally:
        ray.shutdown()
        nodes.shutdown()


def check_killed_driver(source: Path, address: str) -> None:
    """Kill the process that began a move, and go on by each engine."""
    for name, engine in (("resumed", RayEngine(address)), ("resumed-locally", LOCAL)):
        target = source.with_name(f"{name}.parquet")
        program = [sys.executable, __file__, str(source), str(target), address]
        code = subprocess.run(program, check=False).returncode
        assert code == -signal.SIGKILL, code
        result = run(source, str(target), engine)
        assert 0 < result.resumed_at < ROWS
        check_equal(source.parent, target.name)
        report(f"driver killed, {name} at row {result.resumed_at}: equal")


def drive(source: str, target: str, address: str) -> None:
    """A move whose process kills itself in the middle."""
    kill = partial(os.kill, os.getpid(), signal.SIGKILL)
    run(Path(source), target, RayEngine(address), at(ROWS // 4, kill))


def check_other_targets(source: Path, engine: Engine) -> None:
    """Compare targets of other kinds: files of blocks, and a table that the driver writes."""
    for form in ("{}/{}.jsonl", "{}/{}-parts/", "lancedb:{}/{}-lance?table=rows"):
        targets = [form.format(source.parent, name) for name in ("by-ray", "locally")]
        run(source, targets[0], engine)
        run(source, targets[1], LOCAL)
        first, second = (sorted(contents(target)) for target in targets)
        assert first == second, form
        report(f"{form.format('', 'target')}: equal to the local engine")


def check_object_store(source: Path, engine: Engine) -> None:
    """Move from and to folders of a server of S3's protocol, and go on after an interruption."""
    bucket, _ = fs.FileSystem.from_uri("s3://vectors")
    table, size = pq.read_table(source), ROWS // 4
    for part in range(3):
        with bucket.open_output_stream(f"vectors/old/{part}.parquet") as stream:
            pq.write_table(table.slice(part * size, size), stream)
    pq.write_table(table.slice(0, 3 * size), source.with_name("objects.parquet"))
    old = "s3://vectors/old/"
    run(source.with_name("objects.parquet"), f"{source.parent}/expected.parquet", LOCAL)
    expected = contents(f"{source.parent}/expected.parquet")
    for name, kind in (("by-ray", engine), ("locally", LOCAL), ("resumed", LOCAL)):
        state, target = source.with_name(f"objects-{name}.state"), f"s3://vectors/{name}/"
        if name == "resumed":
            with suppress(KeyboardInterrupt):
                run_objects(old, target, state, kind, at(size, interrupt))
            names = [info.base_name for info in bucket.get_file_info(fs.FileSelector(target[5:]))]
            assert names
            assert "_SUCCESS" not in names, names
        result = run_objects(old, target, state, kind)
        assert bool(result.resumed_at) == (name == "resumed"), result
        assert contents(target) == expected, name
        assert bucket.get_file_info(f"{target[5:]}_SUCCESS").type == fs.FileType.File
        report(f"{old} to {target}: equal to the local engine's file, {result.seconds:.1f} s")
    try:
        run_objects(old, "s3://vectors/locally/", source.with_name("other.state"), LOCAL)
    except ConflictError as error:
        assert "s3://vectors/locally/ exists already" in error.message, error
    else:
        raise AssertionError("an existing folder was written to")


def run_objects(
    old: str,
    target: str,
    state: Path,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MoveResult:
    """Move a folder of objects."""
    with open_store(old) as rows, open_store(target) as moved, client_errors(rows, moved):
        return move(
            rows, moved, make_map(), state, block_rows=BLOCK_ROWS, progress=progress, engine=engine
        )


def interrupt() -> None:
    """Interrupt a move, as Ctrl-C does."""
    raise KeyboardInterrupt


def check_sources(source: Path, engine: Engine) -> None:
    """Compare moves from sources of other kinds."""
    # Here, since it warns of each process that is started by a fork.
    import lancedb

    table = pq.read_table(source).slice(0, EMBEDDED_ROWS)
    lines = (f"{json.dumps(row)}\n" for row in table.to_pylist())
    source.with_name("old.jsonl").write_text("".join(lines))
    lancedb.connect(source.parent / "old").create_table("rows", table, on_bad_vectors="null")
    for name in ("old.jsonl", "old/rows.lance"):
        old, tables = source.parent / name, []
        for kind, target in ((engine, "from-ray.parquet"), (LOCAL, "from-local.parquet")):
            run(old, f"{source.parent}/{target}", kind)
            tables.append(pq.read_table(source.with_name(target)))
            source.with_name(target).unlink()
            rmtree(old.with_name(f"{target}.state"))
        assert tables[0].equals(tables[1]), name
        report(f"from {name}: equal to the local engine")


def check_embeddings(source: Path, nodes: Nodes) -> None:
    """Embed texts in actors, one node of which is killed, and compare with the local engine."""
    encoder = make_encoder(save_model(source.with_name("models") / "model"))
    engine = RayEngine(nodes.address)
    embed(source, "embedded-locally.parquet", encoder, LOCAL)
    for name, kill in (("embedded.parquet", False), ("embedded-killed.parquet", True)):
        progress = at(EMBEDDED_ROWS // 4, nodes.kill) if kill else at(EMBEDDED_ROWS, int)
        result = embed(source, name, encoder, engine, progress)
        tables = [pq.read_table(source.with_name(n)) for n in (name, "embedded-locally.parquet")]
        rows = [np.array(table.column("embedding").to_pylist(), np.float32) for table in tables]
        np.testing.assert_allclose(*rows, atol=1e-5)
        assert tables[0].drop_columns("embedding").equals(tables[1].drop_columns("embedding"))
        killed = ", one of two nodes killed in the middle" if kill else ""
        report(f"texts embedded in actors{killed}: as the local engine, {result.seconds:.1f} s")


def embed(
    source: Path,
    target: str,
    encoder: SpaceEncoder,
    engine: Engine,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> MoveResult:
    """Embed the texts of a store."""
    texts, moved = source.with_name("texts.parquet"), source.with_name(target)
    table = pq.read_table(source).slice(0, EMBEDDED_ROWS).drop_columns(["embedding"])
    pq.write_table(table, texts)
    with open_items(str(texts)) as items, open_store(str(moved)) as rows:
        embedding = Embedding(encoder, FieldItems("text", "text"))
        folder = moved.with_name(f"{target}.state")
        return StoreMove(items, rows, embedding, folder, 64, progress, engine).run()


def check_refusals(source: Path) -> None:
    """Clusters that cannot be used are refused by name, and nothing is left."""
    ray.shutdown()
    try:
        run(source, f"{source.parent}/refused.parquet", RayEngine("127.0.0.1:9"))
    except UnavailableError as error:
        assert "127.0.0.1:9" in error.message, error
    else:
        raise AssertionError("a cluster that does not exist was used")
    assert not list(source.parent.glob("refused*"))
    report("addresses without a cluster: refused by name")


def report(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        drive(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as path:
            check_moves(Path(path))
        report("all passed")
