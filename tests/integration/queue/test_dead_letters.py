"""The command that lists dead letters, on a real server."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from stitchwork.cli.main import main
from stitchwork.queue import dead_letters
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.messages import FORMAT, Job
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.serialization import pack
from stitchwork.resources import TextEncoder, pack_items
from stitchwork.telemetry.metrics import DeadLetterReason
from tests.support.servers import ServerProcess

JOB = Job(id="7", encoder=TextEncoder(model="words"))

List = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def list_letters(
    queue_server: QueueShard,
    queue_process: ServerProcess,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> List:
    """Run `stitchwork dead-letters list --json`; its letters."""
    monkeypatch.setenv("STITCHWORK_REDIS_URL", queue_process.url)

    def run() -> list[dict[str, Any]]:
        assert main(["dead-letters", "list"]) == 0
        capsys.readouterr()
        code = main(["dead-letters", "list", "--json"])
        output = capsys.readouterr()
        assert code == 0, output.err
        letters: list[dict[str, Any]] = json.loads(output.out)
        return letters

    return run


def add(server: QueueShard, data: bytes, reason: DeadLetterReason) -> str:
    return dead_letters.add(server, JOB.stream, "0-1", data, reason)


def test_letter_of_another_format_or_corrupt_is_listed_without_its_model(
    queue_server: QueueShard, list_letters: List
) -> None:
    other = pack(pack_items(["x"]), {**JOB.model_dump(mode="json"), "format": FORMAT + 1})
    expected = {
        add(queue_server, other, DeadLetterReason.INCOMPATIBLE_FORMAT): None,
        add(queue_server, b"no job", DeadLetterReason.CORRUPT): None,
        add(queue_server, JOB.pack(["x"]), DeadLetterReason.DELIVERED_TOO_OFTEN): "words",
    }
    letters = list_letters()
    assert {letter["letter"]: letter.get("model") for letter in letters} == expected
    assert {letter["reason"] for letter in letters} == set(DeadLetterReason)


def test_letter_dropped_after_it_was_listed_is_left_out(
    queue_server: QueueShard, list_letters: List
) -> None:
    dropped, other = (
        add(queue_server, JOB.pack([text]), DeadLetterReason.DELIVERED_TOO_OFTEN) for text in "ab"
    )
    # What `list` finds if the letter is dropped between its two reads.
    queue_server.redis.hdel(ShardKeys().dead[1], dropped)
    assert [letter["letter"] for letter in list_letters()] == [other]
