"""`stitchwork api-keys` on a real registry server."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stitchwork.cli.main import main
from stitchwork.redis.client import RedisClient
from stitchwork.registry import api_keys as records
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.resources import Scope

Run = Callable[..., str]


@pytest.fixture
def run(
    registry_server: RedisClient,
    registry_url: str,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Run a command on the registry; its output, or its message where it fails."""

    def run_command(*words: str, code: int = 0) -> str:
        assert main(["api-keys", *words, "--redis-url", registry_url]) == code
        output = capsys.readouterr()
        return output.err if code else output.out

    return run_command


@pytest.fixture
def registry_url(registry_server: RedisClient) -> str:
    return registry_server.url


def test_add_prints_a_key_and_stores_its_hash(
    registry_server: RedisClient, registry_url: str
) -> None:
    words = ["add", "me", "--scope", "read", "--scope", "infer", "--days", "2", "--limit", "9/day"]
    program = [sys.executable, "-P", "-m", "stitchwork", "api-keys"]
    result = subprocess.run(
        [*program, *words, "--redis-url", registry_url], capture_output=True, text=True, check=True
    )
    (key,) = ApiKeyRepository(registry_server).list()
    assert key.digest == records.digest(result.stdout.strip())
    assert (key.scopes, key.limit) == ((Scope.READ, Scope.INFER), "9/day")
    assert key.expires


def test_list_names_keys_without_their_hashes(run: Run, registry_server: RedisClient) -> None:
    run("add", "me", "--scope", "read", "--days", "2")
    (key,) = ApiKeyRepository(registry_server).list()
    text = run("list", "--json")
    assert [entry["name"] for entry in json.loads(text)] == ["me"]
    assert key.digest not in text
    assert "read" in run("list")


def test_last_key_is_removed_only_on_demand(run: Run, registry_server: RedisClient) -> None:
    run("add", "me", "--scope", "read")
    assert "last key" in run("remove", "me", code=1)
    run("add", "you", "--scope", "admin")
    run("remove", "me")
    run("remove", "you", "--last")
    assert ApiKeyRepository(registry_server).list() == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["often", "--scope", "admin", "--limit", "often"], "100/minute"),
        (["nothing"], "expected --scope"),
        (["old", "--scope", "read", "--days", "0"], "--days: expected more than 0"),
    ],
)
def test_add_refuses_wrong_options(run: Run, words: list[str], message: str) -> None:
    assert message in run("add", *words, code=1)


def test_declare_prints_a_line_of_a_key_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["declare", "me", "--scope", "read", "--scope", "infer", "--days", "1"]
    words += ["--limit", "5 /day;64 items/second", "--weight", "4", "--max-queue-items", "500"]
    assert main(["api-keys", *words]) == 0
    output = capsys.readouterr()
    file = tmp_path / "keys"
    file.write_text(output.out)
    (key,), errors = records.read_file(file)
    assert not errors
    assert key.digest == records.digest(output.err.strip())
    assert (key.name, key.scopes, key.expired) == ("me", (Scope.READ, Scope.INFER), False)
    assert (key.limit, key.weight, key.max_queue_items) == ("5/day;64items/second", 4, 500)
