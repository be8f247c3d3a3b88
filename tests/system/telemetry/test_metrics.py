"""Figures of one process and of several, and that whoever reads them asks for what is there."""

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
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchwork.supervisor import Plan, ServiceProcess, start
from stitchwork.telemetry import Metrics, Telemetry
from stitchwork.telemetry.metrics import MOST_HEADS, TENTHS, ArrayHistogram
from tests.support.metric_samples import Scrape, sample_value
from tests.support.waiting import wait_until

DASHBOARDS = Path(__file__).parents[3] / "docs" / "dashboards"
README = Path(__file__).parents[3] / "README.md"
NAMED = re.compile(r"\b(?:stitchwork|process)_[a-z_]+[a-z]\b")


@pytest.fixture(scope="module")
def twins() -> Iterator[ServiceProcess]:
    """Two APIs on one address, without workers."""
    with TemporaryDirectory(prefix="sw") as folder:
        env = {"STITCHWORK_LOG_LEVEL": "warning", "OMP_NUM_THREADS": "1"}
        plan = Plan(port=0, data_dir=Path(folder), apis=2, workers=0, env=env)
        with start(plan) as running:
            wait_until("both answer", lambda: len(running.pids) == 4)
            yield running


def names(url: str) -> set[str]:
    """The names of all series, and of families that have none now."""
    seen = Scrape(url)
    return {name for name, _ in seen.series} | set(seen.families)


def test_each_api_shows_what_all_of_them_did(twins: ServiceProcess) -> None:
    url, pids = twins.url, twins.pids
    for asleep, times in (("api", 3), ("api-2", 5)):
        os.kill(pids[asleep], signal.SIGSTOP)
        for _ in range(times):
            assert httpx.get(f"{url}/no-such-id", timeout=30).status_code == 404
        # The other one answers this, too.
        seen = Scrape(f"{url}/metrics")
        os.kill(pids[asleep], signal.SIGCONT)
    assert seen.sum("requests_total", route="unmatched", status="404") == 8
    assert seen.sum("requests_in_progress") == 1
    os.kill(pids["api"], signal.SIGKILL)
    wait_until("it is started anew", lambda: twins.pids.get("api", pids["api"]) != pids["api"])
    os.kill(pids["api-2"], signal.SIGSTOP)
    seen = Scrape(f"{url}/metrics")
    os.kill(pids["api-2"], signal.SIGCONT)
    assert seen.sum("requests_total", route="unmatched", status="404") == 8
    assert seen.sum("requests_in_progress") == 1, "what a dead process had under way is over"


def test_the_folder_they_share_goes_with_them() -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        plan = Plan(port=0, data_dir=Path(folder), workers=0, env={"STITCHWORK_LOG_LEVEL": "error"})
        with start(plan):
            shared = Path((Path(folder) / "lock").read_text())
            assert list(shared.glob("counter_api.db"))
        assert not shared.exists()


def test_the_readme_names_every_metric(twins: ServiceProcess) -> None:
    seen = Scrape(f"{twins.url}/metrics")
    shown = {
        name + ("_total" if family.type == "counter" else ""): (family.type, family.documentation)
        for name, family in seen.families.items()
    }
    rows = re.findall(r"^\| `(stitchwork_\w+)`.* \| (\w+) \| (.*) \|$", README.read_text(), re.M)
    assert {name: (kind, told) for name, kind, told in rows} == shown


@pytest.mark.parametrize("file", ["grafana.json", "alerts.yaml"])
def test_dashboard_and_alerts_ask_for_what_is_there(twins: ServiceProcess, file: str) -> None:
    text = (DASHBOARDS / file).read_text()
    if file.endswith(".json"):
        panels = json.loads(text)["panels"]
        text = "\n".join(target["expr"] for p in panels for target in p.get("targets", ()))
    else:
        text = "\n".join(line for line in text.splitlines() if "summary" not in line)
    asked = set(NAMED.findall(text))
    assert len(asked) > 5
    # Of the process itself, whoever does not share a folder shows more.
    own = {name for name, _ in _own_series()}
    assert asked <= names(f"{twins.url}/metrics") | own


def test_the_dashboard_shows_every_metric(twins: ServiceProcess) -> None:
    asked = NAMED.findall((DASHBOARDS / "grafana.json").read_text())
    known = {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked}
    assert set(Scrape(f"{twins.url}/metrics").families) <= known


def _own_series() -> list[tuple[str, float]]:
    return [
        (sample.name, sample.value)
        for family in Metrics().registry.collect()
        for sample in family.samples
    ]


@given(st.lists(st.one_of(st.floats(-1, 2), st.sampled_from(TENTHS)), max_size=30))
def test_many_values_at_a_time_are_as_many_one_by_one(found: list[float]) -> None:
    together, apart = (ArrayHistogram("s", "told", registry=None, buckets=TENTHS) for _ in range(2))
    together.observe_many(found)
    for value in found:
        apart.observe(value)
    pairs = zip(together.collect(), apart.collect(), strict=True)
    for one, other in pairs:
        for mine, theirs in zip(one.samples, other.samples, strict=True):
            assert (mine.name, mine.labels) == (theirs.name, theirs.labels)
            assert mine.value == pytest.approx(theirs.value, abs=1e-9)


def test_labels_are_bounded_whatever_clients_send() -> None:
    metrics = Metrics()
    for i in range(3 * MOST_HEADS):
        metrics.record_confidences(f"head-{i}", [0.5])
        metrics.record_response(f"BREW{i}", None, 404, None, 0.1)
    heads = {labels["head"] for labels in _labels(metrics, "confidence_count")}
    assert len(heads) == MOST_HEADS + 1
    assert sample_value(metrics, "confidence_count", head="other") == 2 * MOST_HEADS
    known = {"method": "other", "route": "unmatched", "status": "404"}
    assert _labels(metrics, "requests_total") == [known]


def _labels(metrics: Metrics, name: str) -> list[dict[str, str]]:
    return [
        dict(sample.labels)
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"stitchwork_{name}"
    ]


def test_uncovered_inputs_are_counted() -> None:
    metrics = Metrics()
    metrics.record_inputs("translate", np.array([True, False, True, False, False]))
    assert sample_value(metrics, "inputs_total", operation="translate") == 5
    assert sample_value(metrics, "uncovered_inputs_total", operation="translate") == 3


def test_a_step_that_fails_is_timed_all_the_same() -> None:
    telemetry = Telemetry()
    with pytest.raises(ZeroDivisionError), telemetry.step("embed"):
        _ = 1 / 0
    assert sample_value(telemetry.metrics, "step_duration_seconds_count", step="embed") == 1


def test_without_tracing_nothing_of_it_is_imported() -> None:
    # Others import parts of it where it is installed; what sends spans only we do.
    code = (
        "import sys, stitchwork.api.app, stitchwork.bootstrap.api; "
        "heavy = {'stitchwork.telemetry.tracing', 'opentelemetry.exporter'}; "
        "sys.exit(bool(heavy & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tracing_that_is_not_installed_is_a_sentence() -> None:
    code = (
        "import sys; sys.modules['opentelemetry.sdk'] = None; "
        "from stitchwork.cli.main import main; "
        "sys.exit(main(['api', '--tracing', 'true', '--redis-url', 'unix:///nowhere', "
        "'--durable', 'false']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "stitchwork[otel] installs" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_a_sentence(twins: ServiceProcess) -> None:
    port = httpx.URL(twins.url).port
    command = [sys.executable, "-m", "stitchwork", "worker", "--worker-metrics-port", str(port)]
    env = os.environ | {
        "STITCHWORK_REDIS_URL": twins.redis_url or "",
        "STITCHWORK_QUEUE_URL": twins.queue_url or "",
    }
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 1
    assert f"worker_metrics_port {port}: Address already in use" in done.stderr
