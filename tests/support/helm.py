"""Helm on the chart of the repository: its objects, or what it refuses."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.support.chart_schema import CHART

RELEASE: Final = "demo"
NAMESPACE: Final = "models"
EXAMPLES: Final = sorted(CHART.glob("ci/*-values.yaml"))

Manifest = dict[str, Any]


@cache
def _program() -> str:
    """The path of helm; skips the test if it is not installed."""
    beside = Path(sys.executable).parent / "helm"
    program = str(beside) if beside.exists() else shutil.which("helm")
    if program is None:
        pytest.skip("helm is not installed: `.ci/helm .venv/bin` installs it")
    return program


def run(command: str, *arguments: str, values: Manifest | None = None) -> tuple[int, str]:
    """A command of helm on the chart.

    Args:
        command: `lint` or `template`.
        arguments: More of its arguments.
        values: Values, as a file would have them.

    Returns:
        Its exit code, and what it printed.
    """
    words = [_program(), command, *([RELEASE] if command == "template" else []), str(CHART)]
    if values is not None:
        words += ["--values", "-"]
    done = subprocess.run(
        [*words, "--namespace", NAMESPACE, *arguments],
        input=yaml.safe_dump(values) if values is not None else None,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout if done.returncode == 0 else done.stdout + done.stderr


def render(*files: Path, values: Manifest | None = None) -> list[Manifest]:
    """The objects that the chart makes of values."""
    code, output = run("template", *(f"--values={file}" for file in files), values=values)
    assert code == 0, output
    return [manifest for manifest in yaml.safe_load_all(output) if manifest]


def refusal(values: Manifest) -> str:
    """The error that values end in."""
    code, output = run("template", values=values)
    assert code != 0, "expected an error, got objects"
    return output


def by_name(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    """One object; the name is without the release's prefix."""
    (result,) = (
        manifest
        for manifest in manifests
        if manifest["kind"] == kind
        and manifest["metadata"]["name"] == f"{RELEASE}-stitchwork{name}"
    )
    return result


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """The pod templates by the names of their workloads."""
    for manifest in manifests:
        spec = manifest.get("spec", {})
        if manifest["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield manifest["metadata"]["name"], spec["template"]


def environment(workload: Manifest) -> dict[str, str]:
    """The variables of a workload's container that have a value."""
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
