"""Reports that take long: they are computed in the background, once, whoever asks for them."""

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import Any, TypeVar

import httpx
import numpy as np
import pytest
from starlette.requests import Request
from starlette.responses import Response

from stitchwork.api.reports.anchor_reports import AnchorReports
from stitchwork.api.reports.report_jobs import ProcessCall, ReportJobs, ReportPart, ReportState
from stitchwork.api.reports.space_comparison import SpaceComparisons
from stitchwork.api.schemas.report_responses import ReportProgressResponse
from stitchwork.api.schemas.responses import Progress
from stitchwork.client import Stitchwork
from stitchwork.errors import ErrorCode, JobFailedError, QueueFullError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.registry.report_store import RESULTS, ReportStore
from stitchwork.resources import ApiKey, Scope
from tests.conftest import make_pair
from tests.support import machine
from tests.support.reports import get_report

T = TypeVar("T")
SPACES = 100
NO_TIME = {"X-Request-Timeout": "0.001"}


@pytest.fixture(scope="module")
def hundred(http: httpx.Client) -> str:
    """A set of a hundred spaces of one latent structure."""
    rng = np.random.default_rng(3)
    latent = rng.normal(size=(24, 4))
    for i in range(SPACES):
        anchors = (latent @ rng.normal(size=(4, 6))).tolist()
        body = {"anchor_set": "hundred", "anchors": anchors}
        assert http.put(f"/spaces/h{i:02}", json=body).status_code == 201
    return "hundred"


def test_a_hundred_spaces_are_compared_page_by_page(
    http: httpx.Client, url: str, hundred: str
) -> None:
    first = http.get("/compatibility", params={"anchor_set": hundred}, headers=NO_TIME)
    assert first.status_code == 202, first.text
    assert first.json() == {"status": "pending", "progress": {"done": 0, "total": 16 * 99}}
    assert (first.headers["Location"], first.headers["Retry-After"]) == (
        "compatibility?anchor_set=hundred",
        "1",
    )
    names = [f"h{i:02}" for i in range(SPACES)]
    page = get_report(http, "/compatibility", {"anchor_set": hundred}).json()
    assert [(pair["source"], pair["target"]) for pair in page["pairs"]] == [
        (x, y) for x in names[:16] for y in names if x != y
    ]
    assert [space["id"] for space in page["spaces"]] == names
    assert {pair["verdict"] for pair in page["pairs"]} <= {"good", "fair"}
    assert page["cursor"] == "h15"
    last = get_report(http, "/compatibility", {"anchor_set": hundred, "cursor": "h95"}).json()
    assert [pair["source"] for pair in last["pairs"]][::99] == names[96:]
    assert last["cursor"] is None
    # Both directions were compared at once, and are not again.
    query = {"anchor_set": hundred, "spaces": "h00,h99"}
    again = http.get("/compatibility", params=query, headers=NO_TIME)
    assert (again.status_code, len(again.json()["pairs"])) == (200, 2)
    calls: list[tuple[int, int]] = []
    with Stitchwork(url, timeout=machine.deadline(60)) as client:
        some = names[:18]
        report = client.compatibility(
            hundred, "none", some, progress=lambda *done: calls.append(done)
        )
    assert [(p["source"], p["target"]) for p in report["pairs"]] == list(permutations(some, 2))
    assert all(done <= total == 16 * 17 for done, total in calls[:1])


def test_cursor_that_is_no_named_space_is_refused(http: httpx.Client, hundred: str) -> None:
    query = {"anchor_set": hundred, "spaces": "h01,h02", "cursor": "h03"}
    response = http.get("/compatibility", params=query)
    assert (response.status_code, response.json()["pointer"]) == (422, "/cursor")


def test_report_on_anchors_is_pending_and_then_the_same_for_all(
    http: httpx.Client, url: str
) -> None:
    pair = make_pair(k=120)
    for name, anchors in (("late-x", pair.x_anchors), ("late-y", pair.y_anchors)):
        http.put(f"/spaces/{name}", json={"anchor_set": "late", "anchors": anchors.tolist()})
    path = "/spaces/late-x/anchors"
    pending = http.get(path, params={"target": "late-y"}, headers=NO_TIME)
    assert (pending.status_code, pending.headers["Location"]) == (202, "anchors?target=late-y")
    assert pending.json()["progress"] == {"done": 0, "total": 1}
    with Stitchwork(url, timeout=machine.deadline(60)) as client:
        report = client.anchor_report("late-x", "late-y")
    again = http.get(path, params={"target": "late-y"}, headers=NO_TIME)
    assert (again.status_code, again.json()) == (200, report)
    assert again.headers["Stitchwork-Target"].startswith("late-y@")


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    """A registry with spaces x and y on the set S."""
    registry = Registry(registry_server, durable=False, stale_seconds=0.0)
    pair = make_pair(k=60)
    for name, anchors in (("x", pair.x_anchors), ("y", pair.y_anchors)):
        registry.declare_space(SpaceDeclaration(name, "S", anchors=anchors))
    return registry


@pytest.fixture
def jobs(registry: Registry) -> Iterator[ReportJobs]:
    """Jobs of one process, which are started."""
    jobs = ReportJobs(registry.reports, max_jobs=2, max_jobs_per_key=1)
    jobs.start()
    yield jobs
    jobs.stop()


def state(name: str, *parts: ReportPart) -> ReportState:
    return ReportState(name, None, Progress(done=0, total=len(parts)), parts, {})


def comparison(registry: Registry) -> ReportState:
    """The state of the comparison of x and y, as one process reads it."""
    (anchor_set,), _ = registry.anchor_sets.ready("S")
    comparisons = SpaceComparisons(registry, registry.reports)
    return comparisons.page(anchor_set, None, "ridge", None, {})


def test_comparison_has_one_name_whatever_the_order_of_its_spaces(registry: Registry) -> None:
    (anchor_set,), _ = registry.anchor_sets.ready("S")
    comparisons = SpaceComparisons(registry, registry.reports)
    states = [
        comparisons.page(anchor_set, names, "ridge", None, {}) for names in permutations("xy")
    ]
    assert len({state.name for state in states}) == 1
    assert len({part.name for state in states for part in state.parts}) == 1


@pytest.mark.parametrize("kind", ["comparison", "anchors"])
def test_what_another_report_has_stored_is_not_computed_again(
    registry: Registry, jobs: ReportJobs, kind: str
) -> None:
    if kind == "comparison":
        before = comparison(registry)
    else:
        (space,), _ = registry.spaces.ready("x")
        before = AnchorReports(registry, registry.reports).report(space, None, "ridge", {})
    assert result_of(jobs.submit(before)) == 0
    (part,) = before.parts

    def call(function: Callable[..., T], *args: Any) -> T:
        pytest.fail(f"{function} is called for what is stored")

    assert part.compute(call) == {}


def test_pair_that_is_not_stored_is_computed_alone(
    registry: Registry, jobs: ReportJobs, registry_server: RedisClient
) -> None:
    before = comparison(registry)
    assert result_of(jobs.submit(before)) == 0
    (key, *_) = registry_server.redis.keys(registry_server.key(RESULTS, "pair:*"))
    registry_server.redis.delete(key)
    calls: list[Any] = []

    def call(function: Callable[..., T], *args: Any) -> T:
        calls.append(args[1])
        return function(*args)

    (part,) = before.parts
    assert len(part.compute(call)) == 1
    assert [len(pairs) for pairs in calls] == [1]


def result_of(future: Any) -> Any:
    return future.result(machine.deadline(60))


def test_result_of_one_process_is_read_by_another(
    registry: Registry, jobs: ReportJobs, registry_server: RedisClient
) -> None:
    before = comparison(registry)
    assert (before.response, before.progress) == (None, Progress(done=0, total=2))
    assert result_of(jobs.submit(before)) == 0
    replica = Registry(registry_server, durable=False, stale_seconds=0.0)
    after = comparison(replica)
    assert (after.parts, after.progress) == ([], Progress(done=2, total=2))
    assert after.response is not None
    # One that cannot be read is computed again.
    (key, *_) = registry_server.redis.keys(registry_server.key(RESULTS, "pair:*"))
    registry_server.redis.set(key, b"{")
    assert comparison(replica).progress == Progress(done=1, total=2)


def test_part_that_another_process_computes_is_left_to_it(
    registry: Registry, jobs: ReportJobs, registry_server: RedisClient
) -> None:
    other = ReportStore(registry_server)
    assert other.take("slow")
    computed: list[str] = []

    def compute(call: ProcessCall) -> Mapping[str, Any]:
        computed.append("slow")
        return {"slow": 1}

    report = state("report", ReportPart("slow", compute))
    assert result_of(jobs.submit(report)) == 1
    assert computed == []
    other.release("slow")
    assert result_of(jobs.submit(report)) == 0
    assert (computed, other.get(["slow", "none"])) == (["slow"], {"slow": 1})
    assert other.take("slow"), "the lease ends with the part"


def test_lease_of_a_process_that_ended_runs_out(registry_server: RedisClient) -> None:
    ended, other = ReportStore(registry_server, lease_seconds=0.05), ReportStore(registry_server)
    assert ended.take("part")
    expired = threading.Event()
    while not other.take("part"):
        expired.wait(0.01)
    assert not ended.take("part")
    ended.release("part")
    assert not ended.take("part"), "it is not the owner's to release"


def test_requests_wait_for_a_job_that_they_share_and_others_are_refused(
    jobs: ReportJobs, registry: Registry
) -> None:
    released = threading.Event()

    def compute(call: ProcessCall) -> Mapping[str, Any]:
        released.wait(machine.deadline(60))
        return {"held": True}

    report = state("held", ReportPart("held", compute))
    future = jobs.submit(report)
    assert jobs.submit(report) is future
    second = jobs.submit(state("second", ReportPart("second", lambda call: {})))
    with pytest.raises(QueueFullError, match="fewer than 2 reports"):
        jobs.submit(state("third"))

    def read() -> ReportState:
        stored = registry.reports.get(["held"])
        if not stored:
            return report
        done = Progress(done=1, total=1)
        response = ReportProgressResponse(status="pending", progress=done)
        return report._replace(response=response, progress=done)

    async def respond(seconds: float) -> Response:
        scope = {"type": "http", "path": "/a/held", "query_string": b"x=1", "headers": []}
        rest = {"server": ("s", 80), "state": dict[str, Any]()}
        return await jobs.respond(Request({**scope, **rest}), read, seconds)

    pending = asyncio.run(respond(0.01))
    assert (pending.status_code, pending.headers["Location"]) == (202, "held?x=1")
    released.set()
    assert (result_of(future), result_of(second)) == (0, 0)
    assert asyncio.run(respond(30.0)).status_code == 200


def test_key_is_refused_more_reports_than_its_share(jobs: ReportJobs) -> None:
    released = threading.Event()

    def compute(call: ProcessCall) -> Mapping[str, Any]:
        released.wait(machine.deadline(60))
        return {}

    one, other = (
        ApiKey(name=name, digest="0" * 64, scopes=(Scope.READ,)) for name in ("one", "other")
    )
    first = state("first", ReportPart("first", compute))
    future = jobs.submit(first, one)
    second = state("second", ReportPart("second", lambda call: {}))
    with pytest.raises(QueueFullError, match="fewer than 1 reports at a time of key one"):
        jobs.submit(second, one)
    assert jobs.submit(first, one) is future, "a report in progress may be waited for"
    submitted = jobs.submit(second, other)
    released.set()
    assert (result_of(future), result_of(submitted)) == (0, 0)
    assert result_of(jobs.submit(state("third", ReportPart("third", lambda call: {})), one)) == 0


def test_process_that_is_killed_fails_the_report_and_the_next_request_repeats_it(
    jobs: ReportJobs, registry: Registry
) -> None:
    report = state("killer", ReportPart("killer", lambda call: {"x": call(os.abort)}))
    with pytest.raises(JobFailedError) as failure:
        result_of(jobs.submit(report))
    assert failure.value.code == ErrorCode.JOB_FAILED
    assert result_of(jobs.submit(comparison(registry))) == 0
