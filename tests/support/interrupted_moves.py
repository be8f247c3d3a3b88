"""Checks that moves which are killed end as undisturbed ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

from stitchwork.migration.store import Batch
from stitchwork.migration.stores import open_store
from tests.support import killed_moves
from tests.support.moved_stores import make_map

MODULES = "parquet_store json_lines_store"


def check_interrupted_moves(
    source: str,
    target: str,
    folder: Path,
    *,
    kills: int,
    seed: int,
    block: int = 256,
    rejected: int = 0,
    modules: str = MODULES,
) -> None:
    """Move a store once undisturbed, and several times with a process that is killed.

    Args:
        source: The store to read.
        target: The store to create; `{}` is the number of the move.
        folder: Where the states are, and nothing else.
        kills: How many processes are killed, each at another kind of event.
        seed: Chooses the events.
        block: Rows of a block.
        rejected: Rows that are left out.
        modules: Modules of stores that are imported once, before processes are forked.
    """
    (folder / "map").write_bytes(make_map().data)
    arguments = [source, target, folder / "map", folder, block, kills, seed]
    program = [sys.executable, "-P", killed_moves.__file__, *arguments]
    env = {**os.environ, "STORE_MODULES": modules}
    run = subprocess.run([*map(str, program)], capture_output=True, text=True, env=env)
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    assert len(set(report["killed"])) == len(report["killed"]) == kills
    with open_store(source) as store:
        count = store.count()
    expected = contents(target.replace("{}", "0"))
    assert len(expected) == count - rejected
    rejects = (folder / "state-0/rejects.jsonl").read_text()
    assert len(rejects.splitlines()) == rejected
    for number in range(1, len(report["killed"]) + 1):
        event = report["killed"][number - 1]
        assert contents(target.replace("{}", str(number))) == expected, event
        state = folder / f"state-{number}"
        assert (state / "rejects.jsonl").read_text() == rejects, event
        assert not list(state.glob("parts*")), event


def contents(url: str) -> list[tuple[object, bytes, str]]:
    """The rows of a store: ids, vectors and payloads."""
    with open_store(url) as store:
        return [row for batch in store.scan(300) for row in rows_of(batch)]


def rows_of(batch: Batch) -> list[tuple[object, bytes, str]]:
    """The rows of a batch."""
    assert not batch.faults
    vectors = [vector.tobytes() for vector in batch.vectors]
    payloads = [json.dumps(record, sort_keys=True) for record in batch.payload.records()]
    return list(zip(batch.ids, vectors, payloads, strict=True))
