"""What the package is made of, and what its containers may do."""

import re
import tomllib
from itertools import chain
from typing import Any

import pytest
import yaml

from tests.support.code_blocks import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def requirements() -> list[str]:
    project = PROJECT["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    return [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras]


@pytest.mark.parametrize("requirement", requirements())
def test_every_dependency_has_a_lower_bound(requirement: str) -> None:
    itself = requirement.startswith(f"{PROJECT['project']['name']}[")
    assert itself or re.match(r"[\w.-]+(\[[\w,-]+\])?>=\d", requirement)


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_a_container_cannot_do_more_than_it_must(name: str) -> None:
    service: dict[str, Any] = COMPOSE["services"][name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert not service.get("privileged")
    assert service["security_opt"] == ["no-new-privileges:true"]
    if "build" in service:
        user, health = stage(service["build"]["target"])
        assert user == "stitchwork"
        assert health
    else:
        assert service["user"] == "valkey"
        assert service["healthcheck"]["test"]


def test_compose_publishes_on_loopback_only() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def stage(name: str) -> tuple[str, bool]:
    """Who a stage of the Dockerfile runs as, and whether it tells how it is."""
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", DOCKERFILE, re.M | re.S))
    below = {of: base for base, of in re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)}
    text = ""
    current: str | None = name
    while current in stages:
        text = stages[current] + text
        current = below.get(current)
    users = re.findall(r"^USER (\S+)$", text, re.M)
    return (users[-1] if users else "root"), "HEALTHCHECK" in text
