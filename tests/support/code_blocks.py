"""Fenced code blocks of the documentation, and a reader that runs them in order in one folder."""

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import yaml
from markdown_it import MarkdownIt

from tests.support import machine
from tests.support.ports import unused_port
from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 120
LISTENING: Final = "stitchwork listens on "
ADDRESS: Final = re.compile(r"(?:localhost|127\.0\.0\.1):8765")
"""The address in the documentation; a test's service listens on a free port instead."""
GRPC_ADDRESS: Final = re.compile(r"(?:localhost|127\.0\.0\.1):8001")
PRELUDE: Final = """if [ -f "$HOME/.environment" ]; then . "$HOME/.environment"; fi
trap 'export -p | grep -v STITCHWORK_URL > "$HOME/.environment"' EXIT
"""
"""Blocks share a terminal: the exports of one block are restored in the next."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: The path of its page, from the root.
        line: The number of its first line, from 1.
        language: The word after the fence.
        text: Its content.
    """

    page: str
    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, which identifies it in lists."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.page}, line {self.line}, {self.language or 'figure'}"


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, by its path from the root."""
    markdown = (ROOT / page).read_text()
    return [
        Block(page, token.map[0] + 2, token.info.strip(), token.content)
        for token in MarkdownIt().parse(markdown)
        if token.type == "fence" and token.map
    ]


class Reader:
    """Runs code blocks in a folder, with a shell and a service.

    Args:
        folder: The working directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._service: subprocess.Popen[str] | None = None
        self._url = ""
        self._output = ""
        self._grpc_port = unused_port()
        programs = folder / ".programs"
        programs.mkdir()
        # Tests this checkout, not an installed package.
        command = programs / "stitchwork"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m stitchwork "$@"\n')
        command.chmod(0o755)
        # curl exits with 0 after a 404 by default.
        (folder / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\n")
        self._env = os.environ | {
            "PATH": os.pathsep.join(
                [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
            "CURL_HOME": str(folder),
            "OMP_NUM_THREADS": "1",
            "STITCHWORK_PORT": "0",
            "STITCHWORK_GRPC_PORT": str(self._grpc_port),
            "STITCHWORK_OFFLINE": "true",
            "STITCHWORK_LOG_LEVEL": "warning",
        }

    def read(self, block: Block) -> None:
        """Run a block.

        Raises:
            AssertionError: If it fails, or a response differs from the block.
        """
        match block.language:
            case "sh" | "bash" if "stitchwork serve" in block.text:
                self._serve(block.text)
            case "sh" | "bash":
                self._run(self._here(block.text))
            case "python":
                self._run('python -c "$0"', self._here(block.text))
            case "json":
                compare(json.loads(block.text), json.loads(self._output), "")
            case "yaml":
                assert all(yaml.safe_load_all(block.text)), "an empty document"
            case "" | "text" | "math":
                # A figure: there is nothing to run.
                pass
            case _:
                raise AssertionError(
                    f"{block}: cannot run {block.language!r}; extend tests/support/code_blocks.py, "
                    "or list the block with a reason in tests/docs/test_pages.py"
                )

    def stop(self) -> None:
        """End the service that a block started."""
        if self._service is not None:
            self._service.terminate()
            self._service.communicate(timeout=machine.deadline(SECONDS))
            self._service = None

    def _serve(self, text: str) -> None:
        """Start the service as in another terminal; one at a time uses the folder."""
        self.stop()
        self._service = subprocess.Popen(
            [
                "bash",
                "-euo",
                "pipefail",
                "-c",
                text.strip().replace("stitchwork", "exec stitchwork"),
            ],
            cwd=self._folder,
            env=self._env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._service.stdout is not None
        line = self._service.stdout.readline()
        assert line.startswith(LISTENING), f"expected {LISTENING!r}, got {line!r}"
        self._url = line.removeprefix(LISTENING).strip()

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", PRELUDE + command[0], *command[1:]],
            cwd=self._folder,
            env=self._env | {"STITCHWORK_URL": self._url},
            capture_output=True,
            text=True,
            timeout=machine.deadline(SECONDS),
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        self._output = done.stdout
        if self._url:
            self._wait()

    def _here(self, text: str) -> str:
        text = GRPC_ADDRESS.sub(f"127.0.0.1:{self._grpc_port}", text)
        return ADDRESS.sub(self._url.removeprefix("http://"), text) if self._url else text

    def _wait(self) -> None:
        """Wait until all registrations are ready, as a reader would."""
        environment = (self._folder / ".environment").read_text()
        key = re.search(r'^declare -x STITCHWORK_KEY="(.*)"$', environment, re.M)
        headers = {"Authorization": f"Bearer {key[1]}"} if key else {}
        with httpx.Client(
            base_url=self._url, headers=headers, timeout=machine.deadline(30)
        ) as http:

            def ready() -> bool:
                pages = [
                    http.get(f"/{kind}", params={"limit": 100}) for kind in ("spaces", "heads")
                ]
                records = [one for page in pages for one in page.raise_for_status().json()["items"]]
                failed = [record for record in records if record["status"] == "failed"]
                assert not failed, failed
                return all(record["status"] == "ready" for record in records)

            wait_until("what was registered is ready", ready, SECONDS)


def compare(expected: Any, actual: Any, place: str) -> None:
    """Compare a documented response with the actual one.

    Floating-point numbers may differ by 1%, and `…` matches anything.

    Raises:
        AssertionError: Where they differ first.
    """
    if expected == "…":
        return
    message = f"{place or '/'}: the page shows {expected!r}, the service returned {actual!r}"
    match expected:
        case dict():
            assert isinstance(actual, dict), message
            assert expected.keys() == actual.keys(), message
            for key, value in expected.items():
                compare(value, actual[key], f"{place}/{key}")
        case list():
            assert isinstance(actual, list), message
            assert len(expected) == len(actual), message
            for i, (one, other) in enumerate(zip(expected, actual, strict=True)):
                compare(one, other, f"{place}/{i}")
        case float():
            assert isinstance(actual, float), message
            assert math.isclose(expected, actual, rel_tol=0.01, abs_tol=0.01), message
        case _:
            assert expected == actual, message
