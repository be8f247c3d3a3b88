"""README's fenced blocks, and a reader who types them in order into one folder."""

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

from tests.support.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 120
ANSWERS: Final = "stitchwork listens on "
USUAL: Final = re.compile(r"(?:localhost|127\.0\.0\.1):8765")
"""Where README's service listens; a test's listens elsewhere, since others may run beside it."""
KEPT: Final = """if [ -f "$HOME/.kept" ]; then . "$HOME/.kept"; fi
trap 'export -p | grep -v STITCHWORK_URL > "$HOME/.kept"' EXIT
"""
"""One terminal is one shell: what a block exports, the next has."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Where its first line stands, from 1.
        language: What follows the fence.
        text: What it holds.
    """

    line: int
    language: str
    text: str

    @property
    def first(self) -> str:
        """Its first line, by which lists name it."""
        return self.text.partition("\n")[0]

    def __str__(self) -> str:
        return f"{self.language or 'drawing'}, line {self.line}"


def blocks(markdown: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(token.map[0] + 2, token.info.strip(), token.content)
        for token in MarkdownIt().parse(markdown)
        if token.type == "fence" and token.map
    ]


class Reader:
    """Types blocks as they stand, with a folder, a shell and a service of their own.

    Args:
        folder: Where they are typed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._service: subprocess.Popen[str] | None = None
        self._url = ""
        self._said = ""
        programs = folder / ".programs"
        programs.mkdir()
        # What is tested is this checkout, whatever is installed.
        command = programs / "stitchwork"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m stitchwork "$@"\n')
        command.chmod(0o755)
        # curl calls an answer of 404 a success unless told otherwise.
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
            "STITCHWORK_OFFLINE": "true",
            "STITCHWORK_LOG_LEVEL": "warning",
        }

    def read(self, block: Block) -> None:
        """Do what a block says.

        Raises:
            AssertionError: If it fails, or an answer differs from the one that it shows.
        """
        match block.language:
            case "sh" | "bash" if "stitchwork serve" in block.text:
                self._serve(block.text)
            case "sh" | "bash":
                self._run(self._here(block.text))
            case "python":
                self._run('python -c "$0"', self._here(block.text))
            case "json":
                compare(json.loads(block.text), json.loads(self._said), "")
            case "yaml":
                assert all(yaml.safe_load_all(block.text)), "an empty document"
            case "" | "text":
                # A drawing: there is nothing to run.
                pass
            case _:
                raise AssertionError(
                    f"{block}: {block.language!r} is no language that a reader can run here; "
                    "teach tests/blocks.py, or name the block in tests/test_readme.py with a reason"
                )

    def stop(self) -> None:
        """End the service that a block started."""
        if self._service is not None:
            self._service.terminate()
            self._service.communicate(timeout=SECONDS)
            self._service = None

    def _serve(self, text: str) -> None:
        """Start the service in the foreground of another terminal; one at a time has the folder."""
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
        said = self._service.stdout.readline()
        assert said.startswith(ANSWERS), f"expected {ANSWERS!r}, got {said!r}"
        self._url = said.removeprefix(ANSWERS).strip()

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", KEPT + command[0], *command[1:]],
            cwd=self._folder,
            env=self._env | {"STITCHWORK_URL": self._url},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"
        self._said = done.stdout
        if self._url:
            self._wait()

    def _here(self, text: str) -> str:
        return USUAL.sub(self._url.removeprefix("http://"), text) if self._url else text

    def _wait(self) -> None:
        """A reader looks whether what was registered is ready before going on."""
        kept = (self._folder / ".kept").read_text()
        key = re.search(r'^declare -x STITCHWORK_KEY="(.*)"$', kept, re.M)
        headers = {"Authorization": f"Bearer {key[1]}"} if key else {}
        with httpx.Client(base_url=self._url, headers=headers, timeout=30) as http:

            def ready() -> bool:
                found = [
                    http.get(f"/{kind}", params={"limit": 100}) for kind in ("spaces", "heads")
                ]
                records = [one for page in found for one in page.raise_for_status().json()["items"]]
                failed = [record for record in records if record["status"] == "failed"]
                assert not failed, failed
                return all(record["status"] == "ready" for record in records)

            wait_until("what was registered is ready", ready, SECONDS)


def compare(shown: Any, came: Any, place: str) -> None:
    """Compare an answer as README shows it with one that came.

    Numbers that are not whole may differ by a hundredth, and `…` stands for anything.

    Raises:
        AssertionError: Where they differ first.
    """
    if shown == "…":
        return
    told = f"{place or '/'}: README shows {shown!r}, the service answered {came!r}"
    match shown:
        case dict():
            assert isinstance(came, dict), told
            assert shown.keys() == came.keys(), told
            for key, value in shown.items():
                compare(value, came[key], f"{place}/{key}")
        case list():
            assert isinstance(came, list), told
            assert len(shown) == len(came), told
            for i, (one, other) in enumerate(zip(shown, came, strict=True)):
                compare(one, other, f"{place}/{i}")
        case float():
            assert isinstance(came, float), told
            assert math.isclose(shown, came, rel_tol=0.01, abs_tol=0.01), told
        case _:
            assert shown == came, told
