"""Values of the chart: what is refused, and that settings arrive as they were written."""

from typing import Any, Final

import pytest
import yaml

from stitchwork.settings import Settings
from tests.support import chart_schema
from tests.support.chart_schema import document
from tests.support.code_blocks import blocks
from tests.support.helm import Manifest, by_name, environment, refusal
from tests.support.helm import render as objects

PAGE_BLOCKS: Final = [b for b in blocks("docs/operations/kubernetes.md") if b.language == "yaml"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"replicaCount": 3}, "additional properties 'replicaCount' not allowed"),
        ({"settings": {"max_rowz": 3}}, "additional properties 'max_rowz' not allowed"),
        ({"settings": {"max_rows": "many"}}, "got string, want integer"),
        ({"settings": {"max_rows": 0}}, "minimum: got 0, want 1"),
        ({"settings": {"log_level": "loud"}}, "value must be one of"),
        ({"settings": {"rate_limits": {"write": "1/minute"}}}, "value must be one of"),
        ({"settings": {"redis_url": "redis://x"}}, "'redis_url' not allowed"),
        ({"api": {"settings": {"lease_seconds": 3}}}, "'lease_seconds' not allowed"),
        ({"pools": {"default": {"settings": {"drain_seconds": 3}}}}, "'drain_seconds' not allowed"),
        ({"pools": {"default": {"gpu": 1}}}, "additional properties 'gpu' not allowed"),
        ({"pools": {"A_B": {}}}, "propertyName"),
        ({"pools": {"default": {"autoscaling": {"type": "kedas"}}}}, "value must be one of"),
        ({"pools": {"default": {"models": []}}}, "minItems: got 0, want 1"),
        ({"worker": {"device": "tpu"}}, "does not match pattern"),
        ({"api": {"resources": {"limits": {"memory": "3 GB"}}}}, "does not match pattern"),
        ({"api": {"env": [{"name": "STITCHWORK_PORT", "value": "1"}]}}, "'not' failed"),
        ({"redis": {"url": "http://x"}}, "does not match pattern"),
        ({"keys": {"readKeyEntry": "read"}}, "keys.readKeyEntry needs keys.existingSecret"),
        ({"redis": {"url": "redis://x"}}, "need valkey.enabled: false"),
        ({"valkey": {"enabled": False}}, "needs redis.url or redis.existingSecret"),
        ({"valkey": {"enabled": False}, "redis": {"queueUrl": "redis://x"}}, "needs redis.url"),
        ({"worker": {"autoscaling": {"type": "keda"}}}, "keys.readKeyEntry must name"),
        ({"worker": {"autoscaling": {"minReplicas": 11}}}, "minReplicas of at most maxReplicas"),
        (
            {"worker": {"autoscaling": {"type": "hpa", "minReplicas": 0}}},
            "minReplicas of 1 or more",
        ),
        ({"api": {"autoscaling": {"minReplicas": 11}}}, "api.autoscaling: expected minReplicas"),
        ({"backup": {"enabled": True}}, "backup.existingClaim must name"),
        ({"backup": {"schedule": "nightly"}}, "does not match pattern"),
        ({"worker": {"volumes": [{"name": "cache"}]}}, "'not' failed"),
        ({"api": {"volumeMounts": [{"name": "ca"}]}}, "missing property 'mountPath'"),
        ({"serviceMonitor": {"enabled": True}}, "keys.readKeyEntry must name"),
        ({"api": {"ingress": {"enabled": True}}}, "api.ingress.host must name the host"),
    ],
)
def test_mistake_in_values_is_an_error(values: Manifest, message: str) -> None:
    assert message in refusal(values)


VALUES: Final = {
    "root_path": "/stitchwork",
    "trusted_proxies": ["10.0.0.0/8"],
    "cors_origins": ["https://app.example.com"],
}
"""Values other than the default of settings that only have some."""


def allowed(definition: str) -> dict[str, Any]:
    """A value other than its default for each setting of a part of the schema."""
    properties = document()["$defs"][definition]["properties"]
    # `durable_replicas` needs `durable`, `queue_shards` the URL of a cluster.
    return {
        name: _other_value(name, schema)
        for name, schema in properties.items()
        if name not in ("durable", "queue_shards")
    }


def _other_value(name: str, schema: dict[str, Any]) -> Any:
    if name in VALUES:
        return VALUES[name]
    default = Settings.model_fields[name].default
    match schema.get("type"):
        case "boolean":
            return not default
        case "integer":
            # Large numbers are where Helm's floats would be written with an exponent.
            return min(schema.get("maximum", 123_456_789_012), 123_456_789_012)
        case "number":
            return 12.5
        case "array":
            return ["one/*", "two-*"]
        case "object":
            name_ = schema.get("propertyNames", {}).get("enum", ["alias"])[0]
            return {name_: "5/minute"}
    return schema["enum"][-1]


@pytest.mark.parametrize(
    ("definition", "part", "workload"),
    [
        ("settings", "", "-api"),
        ("settings", "", "-worker-default"),
        ("apiSettings", "api", "-api"),
        ("workerSettings", "worker", "-worker-default"),
    ],
)
def test_setting_of_values_is_read_by_the_service(
    definition: str, part: str, workload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = allowed(definition)
    values = {part: {"settings": settings}} if part else {"settings": settings}
    variables = environment(by_name(objects(values=values), "Deployment", workload))
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    read = Settings().model_dump(mode="json")
    for name, value in settings.items():
        overridden = {"drain_seconds": 10, "forward_timeout_seconds": 20}
        is_own = workload == "-api" if name == "drain_seconds" else workload != "-api"
        if not part and name in overridden and is_own:
            # The parts' own defaults precede those of all processes.
            value = overridden[name]
        assert read[name] == value, name


def test_shards_of_a_cluster_are_read_by_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = {"url": "cluster://valkey:6379", "queueUrl": "cluster://valkey:6379"}
    values = {
        "settings": {"queue_shards": 3},
        "valkey": {"enabled": False},
        "redis": servers,
    }
    for workload in ("-api", "-worker-default"):
        variables = environment(by_name(objects(values=values), "Deployment", workload))
        for name, text in variables.items():
            monkeypatch.setenv(name, text)
        assert Settings().queue_shards == 3


def test_pool_overrides_the_settings_of_all_workers_and_of_all_processes() -> None:
    values = {
        "settings": {"log_level": "warning", "durable": True, "max_text_tokens": 100},
        "worker": {"settings": {"durable": False, "fit_threads": 2}, "replicas": 3},
        "pools": {"default": {"settings": {"fit_threads": 4}, "replicas": 0}, "more": {}},
    }
    manifests = objects(values=values)
    first = by_name(manifests, "Deployment", "-worker-default")
    second = by_name(manifests, "Deployment", "-worker-more")
    assert (first["spec"]["replicas"], second["spec"]["replicas"]) == (0, 3)
    variables = environment(first)
    assert variables["STITCHWORK_LOG_LEVEL"] == "warning"
    assert variables["STITCHWORK_DURABLE"] == "false"
    assert variables["STITCHWORK_FIT_THREADS"] == "4"
    assert environment(second)["STITCHWORK_FIT_THREADS"] == "2"


def test_settings_that_the_chart_sets_exist() -> None:
    assert Settings.model_fields.keys() >= chart_schema.CHART_OWNED


@pytest.mark.parametrize("block", [str(block) for block in PAGE_BLOCKS])
def test_values_of_the_page_are_accepted(block: str) -> None:
    (values,) = [yaml.safe_load(b.text) for b in PAGE_BLOCKS if str(b) == block]
    if values.get("kind") == "InferenceService":
        (container,) = values["spec"]["predictor"]["containers"]
        variables = environment(by_name(objects(), "Deployment", "-api"))
        assert {entry["name"] for entry in container["env"]} <= variables.keys()
    else:
        assert objects(values=values)
