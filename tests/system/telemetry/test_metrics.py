"""Metrics of several processes, and that README, dashboard and alerts name existing metrics."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest

from stitchwork.supervisor import Plan, ServiceProcess, start
from stitchwork.telemetry import Metrics
from tests.support import machine
from tests.support.metric_samples import Scrape
from tests.support.waiting import wait_until

DASHBOARDS = Path(__file__).parents[3] / "docs" / "dashboards"
PAGE = Path(__file__).parents[3] / "docs/operations/observability.md"
METRIC_NAME = re.compile(r"\b(?:stitchwork|process)_[a-z_]+[a-z]\b")


@pytest.fixture(scope="module")
def twins() -> Iterator[ServiceProcess]:
    """Two APIs on one address, without workers."""
    with TemporaryDirectory(prefix="sw") as folder:
        env = {"STITCHWORK_LOG_LEVEL": "warning", "OMP_NUM_THREADS": "1"}
        plan = Plan(port=0, data_dir=Path(folder), apis=2, workers=0, env=env)
        with start(plan) as running:
            wait_until("both APIs run", lambda: len(running.pids) == 4)
            yield running


def exposed_names(url: str) -> set[str]:
    """The names of all series, and of families that have no series now."""
    scrape = Scrape(url)
    return {name for name, _ in scrape.series} | set(scrape.families)


def process_names() -> set[str]:
    """The names of the series of one process alone, `process_*` included."""
    return {sample.name for family in Metrics().registry.collect() for sample in family.samples}


def test_each_api_exposes_the_sum_of_all_processes(twins: ServiceProcess) -> None:
    url, pids = twins.url, twins.pids
    for paused, count in (("api", 3), ("api-2", 5)):
        os.kill(pids[paused], signal.SIGSTOP)
        for _ in range(count):
            assert httpx.get(f"{url}/no-such-id", timeout=machine.deadline(30)).status_code == 404
        # The other API answers this one, too.
        scrape = Scrape(f"{url}/metrics")
        os.kill(pids[paused], signal.SIGCONT)
    assert scrape.sum("requests_total", route="unmatched", status="404") == 8
    assert scrape.sum("requests_in_progress") == 1
    os.kill(pids["api"], signal.SIGKILL)
    wait_until("the API is restarted", lambda: twins.pids.get("api", pids["api"]) != pids["api"])
    os.kill(pids["api-2"], signal.SIGSTOP)
    scrape = Scrape(f"{url}/metrics")
    os.kill(pids["api-2"], signal.SIGCONT)
    assert scrape.sum("requests_total", route="unmatched", status="404") == 8
    assert scrape.sum("requests_in_progress") == 1, "requests of a dead process are not counted"


def test_the_shared_folder_is_removed_at_shutdown() -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        plan = Plan(port=0, data_dir=Path(folder), workers=0, env={"STITCHWORK_LOG_LEVEL": "error"})
        with start(plan):
            shared = Path((Path(folder) / "lock").read_text())
            assert list(shared.glob("counter_api.db"))
        assert not shared.exists()


def test_the_readme_lists_every_metric(twins: ServiceProcess) -> None:
    scrape = Scrape(f"{twins.url}/metrics")
    exposed = {
        name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for name, family in scrape.families.items()
    }
    rows = re.findall(r"^\| `(stitchwork_\w+)`.* \| (\w+) \| (.*) \|$", PAGE.read_text(), re.M)
    assert {name: (kind, description) for name, kind, description in rows} == exposed


@pytest.mark.parametrize("file", ["grafana.json", "alerts.yaml"])
def test_dashboard_and_alerts_query_existing_metrics(twins: ServiceProcess, file: str) -> None:
    text = (DASHBOARDS / file).read_text()
    if file.endswith(".json"):
        panels = json.loads(text)["panels"]
        text = "\n".join(target["expr"] for p in panels for target in p.get("targets", ()))
    else:
        text = "\n".join(line for line in text.splitlines() if "summary" not in line)
    queried = set(METRIC_NAME.findall(text))
    assert len(queried) > 5
    # A process that shares no folder exposes `process_*` metrics as well.
    assert queried <= exposed_names(f"{twins.url}/metrics") | process_names()


def test_the_dashboard_shows_every_metric(twins: ServiceProcess) -> None:
    queried = METRIC_NAME.findall((DASHBOARDS / "grafana.json").read_text())
    families = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in queried}
    assert set(Scrape(f"{twins.url}/metrics").families) <= families


def test_tracing_packages_are_not_imported_without_tracing() -> None:
    # Other packages import parts of OpenTelemetry if it is installed; the exporter is only ours.
    code = (
        "import sys, stitchwork.api.app, stitchwork.bootstrap.api; "
        "heavy = {'stitchwork.telemetry.tracing', 'opentelemetry.exporter'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tracing_without_its_packages_fails_with_one_sentence() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; "
        "from stitchwork.cli.main import main; "
        "sys.exit(main(['api', '--tracing', '--redis-url', 'unix:///nowhere', "
        "'--no-durable']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "pip install 'stitchwork[otel]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_metrics_port_in_use_fails_with_one_sentence(twins: ServiceProcess) -> None:
    port = httpx.URL(twins.url).port
    command = [
        sys.executable,
        "-P",
        "-m",
        "stitchwork",
        "worker",
        "--worker-port",
        str(port),
    ]
    env = os.environ | {
        "STITCHWORK_REDIS_URL": twins.redis_url or "",
        "STITCHWORK_QUEUE_URL": twins.queue_url or "",
    }
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert result.returncode == 1
    message = f"worker_port: cannot listen on 127.0.0.1, port {port}: Address already in use"
    assert message in result.stderr
