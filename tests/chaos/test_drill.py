"""A short run of the drill of kills, and an API that is terminated behind a load balancer."""

import json
import os
import signal
from pathlib import Path

import httpx
import pytest

from tests.chaos.drill import NEVER, Drill, run
from tests.support.running_service import running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.models, pytest.mark.drills]


@pytest.mark.slow
def test_load_under_kills_loses_and_swaps_nothing(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    run(Drill(seconds=40, apis=2, workers=2, clients=12, report=report))
    figures = json.loads(report.read_text())
    assert len(figures["killed"]) >= 2
    for name, phase in figures["phases"].items():
        assert phase["right"] > 0, name
        assert {key: phase[key] for key in NEVER} == dict.fromkeys(NEVER, 0), name


def test_terminated_api_reports_draining_before_it_ends() -> None:
    with running(workers=0, STITCHWORK_DRAIN_SECONDS="3") as service:
        with httpx.Client(base_url=service.url, timeout=10) as http:
            assert http.get("/workers").json()["workers"] == []
            assert http.get("/health/ready").json()["draining"] is False
            before = service.pids["api"]
            os.kill(before, signal.SIGTERM)
            wait_until(
                "it reports draining", lambda: http.get("/health/ready").json()["draining"], 2.0
            )
            assert http.get("/health/ready").status_code == 503
            assert http.get("/info").status_code == 200, "it still serves"
        wait_until("another one serves", lambda: service.pids.get("api", before) != before)
