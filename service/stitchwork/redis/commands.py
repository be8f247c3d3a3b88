"""Commands as sequences of words, and those that run Lua scripts by their hashes."""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha1
from typing import Any, Final, TypeGuard

import hiredis


class Buffers:
    """Bytes in consecutive parts, none of which is copied.

    Args:
        parts: The parts.
    """

    __slots__ = ("_size", "parts")

    def __init__(self, parts: Iterable[bytes | memoryview]) -> None:
        self.parts = tuple(parts)
        self._size = sum(map(len, self.parts))

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


Word = str | bytes | memoryview | Buffers | int | float
Command = Sequence[Word]
Packet = Sequence[bytes | memoryview]
"""A command in the protocol of Redis, in consecutive parts."""

LARGE_WORD: Final = 32 * 1024
"""Bytes from which a word is not copied."""
MAX_SCRIPTS: Final = 256
_texts: Final[dict[str, str]] = {}
"""The texts of scripts by their hashes."""


def pack_command(command: Command) -> bytes:
    """A command as bytes, in the protocol of Redis."""
    words: Any = tuple(command)
    packed: bytes = hiredis.pack_command(words)
    return packed


def command_packet(command: Command) -> Packet:
    """A command in the protocol of Redis; a large word is a part of its own, and is not copied."""
    if not any(map(_is_large, command)):
        return (pack_command(command),)
    parts, small = list[bytes | memoryview](), [b"*%d\r\n" % len(command)]
    for word in command:
        if _is_large(word):
            small.append(b"$%d\r\n" % len(word))
            parts.append(b"".join(small))
            parts += word.parts if isinstance(word, Buffers) else (word,)
            small = [b"\r\n"]
        else:
            small.append(pack_command((word,)).removeprefix(b"*1\r\n"))
    return (*parts, b"".join(small))


def script_command(script: str, keys: Sequence[str], *arguments: Word) -> Command:
    """The command that runs a script by its hash."""
    return ("EVALSHA", _hash(script), len(keys), *keys, *arguments)


def with_script_text(command: Command) -> Command:
    """The same command with the script's text in place of its hash."""
    _, sha, *rest = command
    return ("EVAL", _texts[str(sha)], *rest)


def guarded_command(command: Command, guard: str) -> Command:
    """The same command; if it runs a script, with Lua before it that may make it fail."""
    if not guard or command[0] != "EVALSHA":
        return command
    _, sha, *rest = command
    return ("EVALSHA", _hash(guard + _texts[str(sha)]), *rest)


def _is_large(word: Word) -> TypeGuard[bytes | memoryview | Buffers]:
    if isinstance(word, Buffers):
        return True
    return isinstance(word, bytes | memoryview) and len(word) >= LARGE_WORD


@lru_cache(MAX_SCRIPTS)
def _hash(script: str) -> str:
    sha = sha1(script.encode(), usedforsecurity=False).hexdigest()
    _texts[sha] = script
    return sha
