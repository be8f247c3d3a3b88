"""Commands as sequences of words, and those that run Lua scripts by their hashes."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha1
from typing import Any, Final

import hiredis

Word = str | bytes | int | float
Command = Sequence[Word]

MAX_SCRIPTS: Final = 256
_texts: Final[dict[str, str]] = {}
"""The texts of scripts by their hashes."""


def pack_command(command: Command) -> bytes:
    """A command as bytes, in the protocol of Redis."""
    words: Any = tuple(command)
    packed: bytes = hiredis.pack_command(words)
    return packed


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


@lru_cache(MAX_SCRIPTS)
def _hash(script: str) -> str:
    sha = sha1(script.encode(), usedforsecurity=False).hexdigest()
    _texts[sha] = script
    return sha
