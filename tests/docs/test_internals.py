"""The pages about internals agree with the code: packages, keys, and fields of messages."""

import asyncio
import inspect
import json
import re
import tomllib
from types import FunctionType
from typing import Any, Final

import numpy as np

from stitchwork.errors import JobFailedError
from stitchwork.geometry.calibration import Calibration
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import Translator
from stitchwork.queue import streams
from stitchwork.queue.admission import MAX_INLINE_BYTES
from stitchwork.queue.keys import ShardKeys, stream_name
from stitchwork.queue.messages import Job, Reply
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.redis.rate_limiter import RateLimiter
from stitchwork.redis.serialization import unpack_frames
from stitchwork.registry.registry import Registry
from stitchwork.registry.report_store import ReportStore
from stitchwork.resources import Arrays, Scope, TextEncoder
from stitchwork.resources.moves import MoveReport
from tests.conftest import Pair
from tests.integration.registry.test_backups import fill
from tests.support.code_blocks import ROOT
from tests.support.move_reports import REPORT
from tests.support.waiting import wait_until

FOLDER: Final = ROOT / "docs/internals"
FIRST_CELL: Final = re.compile(r"^\| `([^`]+)` \|", re.MULTILINE)
PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
LONG_NAMES: Final = frozenset({"name", "namespace"})
"""Placeholders of texts that may contain colons."""
TEMPORARY: Final = frozenset({"restore:{token}:{number}"})
"""Keys that exist only during a call."""
OTHERS: Final = ("inverse:", "rates:")
"""Keys of the queue server that do not belong to a shard of the queue."""


def listed(page: str, *headings: str) -> list[str]:
    """The first cells of the tables below these headings of a page."""
    sections = re.split(r"^## ", (FOLDER / page).read_text(), flags=re.MULTILINE)
    named = {section.partition("\n")[0]: section for section in sections}
    return [cell for heading in headings for cell in FIRST_CELL.findall(named[heading])]


def pattern(key: str) -> re.Pattern[str]:
    """What keys look like that the page lists as this one."""
    expression = ""
    for index, part in enumerate(PLACEHOLDER.split(key)):
        if index % 2 == 0:
            expression += re.escape(part)
        elif part == "kind":
            expression += "(?:anchor-set|space|head)"
        else:
            expression += ".+" if part in LONG_NAMES else "[^:]+"
    return re.compile(expression)


def matches(server: RedisClient, keys: list[str]) -> set[str]:
    """The keys of a page that a server has; each of its keys must be one of them."""
    present = set()
    for raw in server.redis.scan_iter("*"):
        name = raw.decode().removeprefix(server.key(""))
        fitting = {key for key in keys if pattern(key).fullmatch(name)}
        assert fitting, f"docs/internals/keys.md does not list {name}"
        present |= fitting
    return present


def test_packages_are_listed_from_top_to_bottom() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    groups = [set(layer.split(" | ")) for layer in layers if layer != "__main__"]
    packages = listed("architecture.md", "Packages")
    for group in groups:
        assert set(packages[: len(group)]) == group
        del packages[: len(group)]
    assert not packages


def test_keys_of_the_registry_are_listed(registry_server: RedisClient, pair: Pair) -> None:
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    fill(registry, pair)
    x, y, head = ready(registry, "x", "y", "h")
    registry.calibrations.put(x, y, head, "exp", Calibration(0.5, 0.0), 50)
    inputs: Arrays = {"embeddings": np.ones((2, 32), np.float32), "classes": np.arange(2)}
    declared = {"source": "fit", "labels": ["a", "b"]}
    registry.begin_head("fitted", "y", declared, inputs=inputs)
    registry.moves.put_report("m", MoveReport(**REPORT))
    reports = ReportStore(registry_server)
    reports.put({"compatibility:S": {}})
    assert reports.take("compatibility:T")
    keys = listed("keys.md", "Registry server")
    registry.lease_keeper.start()
    try:
        wait_until("a lease", lambda: registry.lease.is_valid)
        assert matches(registry_server, keys) == set(keys) - TEMPORARY
    finally:
        registry.lease_keeper.stop()


def test_keys_of_the_queue_are_listed() -> None:
    placeholders = {"name": stream_name("{encoder}", "{class}")}  # type: ignore[arg-type]
    shard, keys = ShardKeys(), set[str]()
    for name, member in vars(ShardKeys).items():
        if name.startswith("_") or not isinstance(member, property | FunctionType):
            continue
        value: Any = getattr(shard, name)
        if isinstance(member, FunctionType):
            names = inspect.signature(value).parameters
            value = value(*(placeholders.get(name, f"{{{name}}}") for name in names))
        keys |= set(value) if isinstance(value, tuple) else {value}
    expected = {key.removeprefix("stitchwork:{q0}:") for key in keys}
    rows = listed("keys.md", "Queue server")
    assert {row for row in rows if not row.startswith(OTHERS)} == expected


def test_keys_of_inverses_and_rates_are_listed(
    registry_server: RedisClient, queue_server: RedisClient, pair: Pair
) -> None:
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    fill(registry, pair)
    x, y = ready(registry, "x", "y")
    inverses = InverseCache(queue_server, threads=1)
    try:
        Translator(registry, inverses, 1 << 20).pair_map(x, y, "exp")
    finally:
        inverses.close()
    limiter = RateLimiter(queue_server, {Scope.INFER: "10/minute"})
    assert asyncio.run(limiter.hit(None, Scope.INFER, requests=1))
    rows = [row for row in listed("keys.md", "Queue server") if row.startswith(OTHERS)]
    assert matches(queue_server, rows) == set(rows)


def test_fields_of_an_entry_are_listed(queue_server: QueueShard) -> None:
    job = Job(id="1", encoder=TextEncoder(model="words"))
    for text in ("short", "x" * MAX_INLINE_BYTES):
        streams.admit(queue_server, job, job.pack([text]), 1, timeout_ms=60_000)
    entries: Any = queue_server.redis.xrange(ShardKeys().stream(stream_name(job.stream)))
    fields = {name.decode() for _, values in entries for name in values}
    assert set(listed("queue.md", "Fields of an entry")) == fields


def test_fields_of_a_job_are_listed() -> None:
    assert listed("queue.md", "Fields of a job") == list(Job.model_fields)


def test_fields_of_a_reply_are_listed() -> None:
    flags = np.ones(1, bool)
    rows = np.ones((1, 2), np.float32)
    replies = (
        Reply("1", rows, flags, flags, rows[:, 0], (0,), 3, "query"),
        Reply("1", error=JobFailedError("failed")),
    )
    fields = set[str]()
    for reply in replies:
        fields |= set(json.loads(bytes(unpack_frames(reply.pack())[0])))
    assert set(listed("queue.md", "Fields of a reply")) == fields


def ready(registry: Registry, *ids: str) -> list[Any]:
    """The ready spaces and heads of these ids; `h` is a head."""
    records: list[Any] = []
    for id_ in ids:
        repository = registry.heads if id_ == "h" else registry.spaces
        records += repository.ready(id_)[0]
    return records
