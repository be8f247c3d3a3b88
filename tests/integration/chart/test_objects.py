"""The objects that the chart makes: valid for Kubernetes, consistent, and without rights."""

import math
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.integration.chart.custom_resources import SCHEMAS
from tests.support.chart_schema import CHART
from tests.support.code_blocks import ROOT
from tests.support.helm import EXAMPLES, RELEASE, Manifest, by_name, environment, pods, render, run

DEFAULT: Final = "default"
NAMES: Final = [DEFAULT, *(path.name.removesuffix("-values.yaml") for path in EXAMPLES)]
VERSIONS: Final = ("1.27", kubernetes_validate.latest_version())
"""The oldest release that Chart.yaml allows, and the newest."""


@cache
def objects(name: str) -> list[Manifest]:
    """The objects of the default values, or of an example."""
    return render() if name == DEFAULT else render(CHART / f"ci/{name}-values.yaml")


def test_examples_cover_gpu_external_servers_and_production() -> None:
    assert NAMES == [DEFAULT, "cluster", "external-redis", "gpu", "production"]


@pytest.mark.parametrize("path", [None, *EXAMPLES], ids=NAMES)
def test_chart_with_values_passes_the_linter(path: Path | None) -> None:
    code, output = run("lint", "--strict", *([f"--values={path}"] if path else []))
    assert code == 0, output


@pytest.mark.parametrize(
    ("name", "version"),
    [*((name, VERSIONS[-1]) for name in NAMES), ("production", VERSIONS[0])],
)
def test_objects_follow_the_strict_schemas(name: str, version: str) -> None:
    for manifest in objects(name):
        schema = SCHEMAS.get(manifest["kind"])
        if schema is None:
            kubernetes_validate.validate(manifest, version, strict=True)
        else:
            jsonschema.validate(manifest, schema)


def test_strict_schemas_refuse_an_unknown_field() -> None:
    deployment = by_name(render(), "Deployment", "-api")
    deployment["spec"]["template"]["spec"]["enableServiceLink"] = False
    with pytest.raises(kubernetes_validate.ValidationError, match="enableServiceLink"):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_pod_has_no_rights_that_it_does_not_need(name: str) -> None:
    for workload, template in pods(objects(name)):
        spec = template["spec"]
        assert spec["enableServiceLinks"] is False, workload
        assert spec["automountServiceAccountToken"] is False, workload
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == context["fsGroup"] == 10001
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["resources"]["limits"]["memory"]


def _selectors(manifest: Manifest) -> Iterator[dict[str, str]]:
    """The labels by which an object selects pods of this release."""
    spec = manifest.get("spec", {})
    match manifest["kind"]:
        case "Deployment" | "StatefulSet" | "PodDisruptionBudget":
            yield spec["selector"]["matchLabels"]
        case "Service":
            yield spec["selector"]
        case "NetworkPolicy":
            yield spec["podSelector"]["matchLabels"]
            peers = [peer for rule in spec["ingress"] for peer in rule.get("from", [])]
            peers += [peer for rule in spec["egress"] for peer in rule.get("to", [])]
            for peer in peers:
                yield peer.get("podSelector", {}).get("matchLabels", {})


@pytest.mark.parametrize("name", NAMES)
def test_references_between_objects_resolve(name: str) -> None:
    manifests = objects(name)
    labels = [template["metadata"]["labels"] for _, template in pods(manifests)]
    named = {(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests}
    for manifest in manifests:
        for selector in _selectors(manifest):
            assert any(selector.items() <= pod.items() for pod in labels), manifest
        spec = manifest.get("spec", {})
        match manifest["kind"]:
            case "HorizontalPodAutoscaler" | "ScaledObject":
                target = ("Deployment", spec["scaleTargetRef"]["name"])
                assert target in named
                (deployment,) = (
                    m for m in manifests if (m["kind"], m["metadata"]["name"]) == target
                )
                # A number here would undo what the autoscaler has set at each upgrade.
                assert "replicas" not in deployment["spec"]
            case "ServiceMonitor":
                selector = spec["selector"]["matchLabels"]
                services = [
                    port["name"]
                    for service in manifests
                    if service["kind"] == "Service"
                    and selector.items() <= service["metadata"]["labels"].items()
                    for port in service["spec"]["ports"]
                ]
                assert {endpoint["port"] for endpoint in spec["endpoints"]} <= set(services)
            case "Ingress":
                (path,) = spec["rules"][0]["http"]["paths"]
                assert ("Service", path["backend"]["service"]["name"]) in named


def test_production_has_every_kind_of_object() -> None:
    kinds = {manifest["kind"] for name in NAMES for manifest in objects(name)}
    assert kinds == {
        "CronJob",
        "Deployment",
        "HorizontalPodAutoscaler",
        "Ingress",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "ScaledObject",
        "Service",
        "ServiceAccount",
        "ServiceMonitor",
        "StatefulSet",
        "TriggerAuthentication",
    }


def test_pool_with_gpus_requests_them_from_the_cuda_image() -> None:
    worker = by_name(objects("gpu"), "Deployment", "-worker-gpu")
    spec = worker["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": 1}
    assert "stitchwork-worker-cuda:" in container["image"]
    assert environment(worker)["STITCHWORK_DEVICE"] == "cuda"
    assert spec["tolerations"][0]["key"] == "nvidia.com/gpu"
    assert spec["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    # A rolling update would wait forever for a GPU that the old pod holds.
    assert worker["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}
    other = by_name(objects("gpu"), "Deployment", "-worker-default")
    (container,) = other["spec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert environment(other)["STITCHWORK_DEVICE"] == "cpu"


def test_models_of_a_volume_are_readable_by_workers_only() -> None:
    for workload, template in pods(objects("production")):
        mounts = {
            mount["name"]: mount for mount in template["spec"]["containers"][0]["volumeMounts"]
        }
        is_worker = "-worker-" in workload
        assert ("models" in mounts) == is_worker, workload
        if is_worker:
            assert mounts["models"]["readOnly"]
    worker = by_name(objects("production"), "Deployment", "-worker-default")
    assert environment(worker)["STITCHWORK_MODEL_ROOTS"] == "/models"


def test_pods_end_after_the_drain_and_the_longest_request() -> None:
    values: Manifest = {
        "settings": {"request_timeout_seconds": 90},
        "api": {"settings": {"drain_seconds": 20}},
        "pools": {"default": {"settings": {"forward_timeout_seconds": 100.5}}},
    }
    manifests = render(values=values)
    grace = {
        workload: template["spec"]["terminationGracePeriodSeconds"]
        for workload, template in pods(manifests)
    }
    assert grace[f"{RELEASE}-stitchwork-api"] == 20 + 90 + 15
    assert grace[f"{RELEASE}-stitchwork-worker-default"] == 126


def replicas(trigger: dict[str, Any], current: int, value: float) -> int:
    """What Kubernetes' autoscaler makes of a metric: by its documented formulas."""
    target = float(trigger["metadata"]["targetValue"])
    return math.ceil(value / target * (current if trigger["metricType"] == "Value" else 1))


def test_scaler_goes_on_while_jobs_wait_too_long() -> None:
    scaled = by_name(objects("production"), "ScaledObject", "-worker-default")
    (trigger,) = scaled["spec"]["triggers"]
    needed, current = 40, 2
    for _ in range(10):
        # The wait of a queue that has too few workers grows, of one that has enough is short.
        wait = 10.0 if current < needed else 1.9
        current = max(current, min(50, replicas(trigger, current, wait)))
    assert current >= needed
    averaged = {**trigger, "metricType": "AverageValue"}
    assert replicas(averaged, 5, 10.0) == 5


def test_scaler_presents_a_key_of_the_secret() -> None:
    manifests = objects("production")
    (trigger,) = by_name(manifests, "ScaledObject", "-worker-default")["spec"]["triggers"]
    assert trigger["metadata"]["authMode"] == "bearer"
    assert trigger["authenticationRef"]["name"] == f"{RELEASE}-stitchwork-scaler"
    authentication = by_name(manifests, "TriggerAuthentication", "-scaler")
    assert authentication["spec"]["secretTargetRef"] == [
        {"parameter": "token", "name": "stitchwork-keys", "key": "read-key"}
    ]


def test_servers_accept_connections_of_the_service_only() -> None:
    manifests = render(values={"networkPolicy": {"enabled": True}})
    for server in ("-registry", "-queue"):
        policy = by_name(manifests, "NetworkPolicy", server)
        (rule,) = policy["spec"]["ingress"]
        peers = [peer["podSelector"]["matchLabels"] for peer in rule["from"]]
        assert [peer["app.kubernetes.io/component"] for peer in peers] == ["api", "worker"]
        assert policy["spec"]["egress"] == []


def test_ports_of_external_urls_are_open_for_the_service() -> None:
    values: Manifest = {
        "valkey": {"enabled": False},
        "redis": {
            "url": "sentinels://user:p:1@first,second:26380/registry?db=1",
            "queueUrl": "rediss://[fd00::1]:6390/0\trediss://other:6391",
        },
        "networkPolicy": {"enabled": True},
    }
    policy = by_name(render(values=values), "NetworkPolicy", "-worker")
    (names, servers, hub) = (
        [entry["port"] for entry in rule["ports"]] for rule in policy["spec"]["egress"]
    )
    assert (names, servers, hub) == ([53, 53], [6379, 26379, 26380, 6390, 6391], [443])


def test_processes_and_services_have_both_families_of_addresses() -> None:
    manifests = objects(DEFAULT)
    for name in ("-api", "-worker-default"):
        assert environment(by_name(manifests, "Deployment", name))["STITCHWORK_HOST"] == "::"
    services = [manifest["spec"] for manifest in manifests if manifest["kind"] == "Service"]
    assert len(services) == 4
    assert {service["ipFamilyPolicy"] for service in services} == {"PreferDualStack"}


def test_volumes_of_values_are_mounted() -> None:
    more: Manifest = {
        "volumes": [{"name": "authority", "configMap": {"name": "ca"}}],
        "volumeMounts": [{"name": "authority", "mountPath": "/etc/ca", "readOnly": True}],
    }
    manifests = render(values={"api": more, "worker": more})
    for name in ("-api", "-worker-default"):
        deployment = by_name(manifests, "Deployment", name)
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
        spec = deployment["spec"]["template"]["spec"]
        assert more["volumes"][0] in spec["volumes"]
        assert more["volumeMounts"][0] in spec["containers"][0]["volumeMounts"]


def test_external_servers_replace_those_of_the_chart() -> None:
    manifests = objects("external-redis")
    assert not [manifest for manifest in manifests if manifest["kind"] == "StatefulSet"]
    for name in ("-api", "-worker-default"):
        workload = by_name(manifests, "Deployment", name)
        assert environment(workload)["STITCHWORK_REDIS_URL"].startswith("sentinels://")
        (container,) = workload["spec"]["template"]["spec"]["containers"]
        mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert "/etc/stitchwork/redis-tls" in mounts


def test_chart_has_the_version_of_the_package() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (version, version)
