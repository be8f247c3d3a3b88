"""The containers of docker-compose.yml: what each runs, and with which environment."""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

ROOT: Final = Path(__file__).parents[2]
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
_STAGE: Final = re.compile(r"^FROM (\S+) AS (\S+)\n(.*?)(?=^FROM |\Z)", re.MULTILINE | re.DOTALL)
_CONTINUATION: Final = re.compile(r"\\\n\s*")


class Stage(NamedTuple):
    """A stage of the Dockerfile, with all that it inherits.

    Attributes:
        user: Who its processes run as.
        workdir: The folder that they run in.
        command: What it runs.
        healthcheck: The command that checks it; empty if there is none.
        env: Its environment.
    """

    user: str
    workdir: str
    command: list[str]
    healthcheck: list[str]
    env: Mapping[str, str]


class Container(NamedTuple):
    """A service of docker-compose.yml.

    Attributes:
        command: Its command line.
        env: Its environment: the image's, overridden by the composition's.
        healthcheck: The command that checks it.
    """

    command: list[str]
    env: Mapping[str, str]
    healthcheck: list[str]


def container(name: str) -> Container:
    """A service of docker-compose.yml by its name."""
    service = COMPOSE["services"][name]
    healthcheck = service.get("healthcheck", {}).get("test", [])[1:]
    if "build" not in service:
        return Container(service["command"], service.get("environment", {}), healthcheck)
    image = stage(service["build"]["target"])
    env = {**image.env, **service.get("environment", {})}
    return Container(service.get("command", image.command), env, healthcheck or image.healthcheck)


def stage(name: str) -> Stage:
    """A stage of the Dockerfile by its name."""
    text = _CONTINUATION.sub(" ", (ROOT / "Dockerfile").read_text())
    stages = {name: (base, body) for base, name, body in _STAGE.findall(text)}
    instructions = ""
    current = name
    while current in stages:
        base, body = stages[current]
        instructions, current = body + instructions, base
    users = re.findall(r"^USER (\S+)$", instructions, re.MULTILINE)
    folders = re.findall(r"^WORKDIR (\S+)$", instructions, re.MULTILINE)
    commands = re.findall(r"^CMD (\[.*\])$", instructions, re.MULTILINE)
    healthchecks = re.findall(r"^HEALTHCHECK .*?CMD (\[.*\])$", instructions, re.MULTILINE)
    env: dict[str, str] = {}
    for line in re.findall(r"^ENV (.*)$", instructions, re.MULTILINE):
        env |= dict(word.split("=", 1) for word in shlex.split(line))
    return Stage(
        users[-1] if users else "root",
        folders[-1] if folders else "/",
        json.loads(commands[-1]) if commands else [],
        json.loads(healthchecks[-1]) if healthchecks else [],
        env,
    )
