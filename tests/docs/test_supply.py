"""The package's dependencies, and the rights of its containers."""

import re
import tomllib
from itertools import chain
from typing import Any

import pytest

from tests.support.code_blocks import ROOT
from tests.support.containers import COMPOSE, container, stage

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirements() -> list[str]:
    project = PROJECT["project"]
    extras = chain.from_iterable(project["optional-dependencies"].values())
    return [*PROJECT["build-system"]["requires"], *project["dependencies"], *extras]


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
        assert stage(service["build"]["target"]).user == "stitchwork"
    else:
        assert service["user"] == "valkey"
    assert container(name).healthcheck


def test_compose_publishes_on_loopback_only() -> None:
    for service in COMPOSE["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")
