"""Checks that moves which are killed end as undisturbed ones."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stitchwork.migration.offline_map import OfflineMap
from stitchwork.migration.store import Batch
from stitchwork.migration.stores import open_store
from tests.support import killed_moves
from tests.support.moved_stores import make_map

MODULES = ("parquet_store", "json_lines_store")
WARM_MODULES = {"qdrant_store": ("portalocker",)}
"""What stores import as they are opened, and is imported once before processes are forked."""


def check_interrupted_moves(
    source: str,
    target: str,
    folder: Path,
    *,
    kills: int,
    seed: int,
    block: int = 256,
    rejected: int = 0,
    modules: Sequence[str] = MODULES,
    offline_map: OfflineMap | None = None,
) -> list[str]:
    """Move a store once undisturbed, and several times with a process that is killed.

    Args:
        source: The store to read.
        target: The store to create; `{}` is the number of the move.
        folder: Where the states are, and nothing else.
        kills: How many processes are killed, each at another kind of event, and the first ones in
            different phases.
        seed: Chooses the events.
        block: Rows of a block.
        rejected: Rows that are left out.
        modules: Modules of stores that are imported once, before processes are forked.
        offline_map: The map; default: that of generated spaces.

    Returns:
        The events that processes were killed at.
    """
    (folder / "map").write_bytes((offline_map or make_map()).data)
    arguments = [source, target, folder / "map", folder, block, kills, seed]
    program = [sys.executable, "-P", killed_moves.__file__, *arguments]
    names = [f"stitchwork.migration.{module}" for module in modules]
    names += [name for module in modules for name in WARM_MODULES.get(module, ())]
    env = {**os.environ, "STORE_MODULES": " ".join(names)}
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
    return list(report["killed"])


def contents(url: str) -> list[tuple[object, bytes, str]]:
    """The rows of a store: ids, vectors and payloads.

    LanceDB inserts the rows of a batch in any order, so those are in the order of their ids.
    """
    with open_store(url) as store:
        rows = [row for batch in store.scan(300) for row in rows_of(batch)]
    return sorted(rows, key=lambda row: str(row[0])) if url.startswith("lancedb:") else rows


def rows_of(batch: Batch) -> list[tuple[object, bytes, str]]:
    """The rows of a batch."""
    assert not batch.faults
    vectors = [vector.tobytes() for vector in batch.vectors]
    payloads = [json.dumps(record, sort_keys=True) for record in batch.payload.records()]
    return list(zip(batch.ids, vectors, payloads, strict=True))
