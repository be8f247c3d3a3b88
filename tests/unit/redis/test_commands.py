"""Commands as bytes, in parts if they have large words."""

import pytest

from stitchwork.redis.commands import LARGE_WORD, Command, command_packet, pack_command

LARGE = b"x" * LARGE_WORD


@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (("SET", "k", "é", 1, 2.5), 1),
        (("SET", "k", LARGE[1:]), 1),
        (("SET", "k", LARGE), 3),
        (("EVALSHA", "a" * 40, 1, "k", LARGE, 3, "", memoryview(LARGE), LARGE), 7),
    ],
)
def test_packet_of_a_command_is_the_command_in_parts(command: Command, parts: int) -> None:
    packet = command_packet(command)
    assert b"".join(packet) == pack_command(command)
    assert len(packet) == parts


def test_large_word_is_not_copied() -> None:
    _, word, _ = command_packet(("SET", "k", LARGE))
    assert word is LARGE
