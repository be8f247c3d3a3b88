"""The embedded registry's append-only file after a crash: an incomplete end is cut off and kept.

A write that was acknowledged is complete in the file, unless the disk itself lost it. The server
would drop an incomplete end in silence, so it is told not to (`--aof-load-truncated no`), and the
supervisor does it here: loudly, and with a copy of the file as it was.
"""

import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

FOLDER: Final = "appendonlydir"
REFUSAL: Final = "Unexpected end of file reading the append only file"
"""What the server logs before it ends, if the file ends within a command."""
_INCREMENT: Final = re.compile(r'file "?([^" ]+)"? seq \d+ .*type i')
_KEY: Final = re.compile(rb"stitchwork:[A-Za-z0-9._:-]+")
MAX_KEYS: Final = 10
"""Keys that the message names."""


def repair(home: Path) -> str | None:
    """Cut an incomplete command off the end of a registry's append-only file.

    Args:
        home: The server's folder.

    Returns:
        What was dropped, and where the copy is, as a sentence; None if the file is complete, or is
        damaged elsewhere, and was not changed.

    Raises:
        OSError: If there is no room for the copy.
    """
    path = _last_increment(home / FOLDER)
    if path is None:
        return None
    with path.open("rb") as file:
        size = path.stat().st_size
        end = complete_size(file, size)
        if end is None or end == size:
            return None
        file.seek(end)
        lost = file.read()
    copy = home / f"{path.name}.{datetime.now(UTC):%Y%m%dT%H%M%SZ}.truncated"
    shutil.copy2(path, copy)
    os.truncate(path, end)
    keys = [key.decode() for key in dict.fromkeys(_KEY.findall(lost))]
    more = f" and {len(keys) - MAX_KEYS} more" if len(keys) > MAX_KEYS else ""
    names = ", ".join(keys[:MAX_KEYS]) + more if keys else "none that can be read"
    return (
        f"the registry's append-only file ended within a command; its last {len(lost)} bytes are "
        f"dropped, with changes of these keys: {names}. They were not acknowledged, unless the "
        f"disk lost more. The file as it was is {copy}"
    )


def complete_size(file: IO[bytes], size: int) -> int | None:
    """The size of all complete commands and transactions; None if something else is between them.

    Args:
        file: An append-only file in the protocol's own format, at its start.
        size: Its size in bytes.
    """
    end = 0
    in_transaction = False
    while file.tell() < size:
        line = file.readline(64)
        if line.startswith(b"#"):
            # An annotation, such as a time.
            while not line.endswith(b"\n") and line:
                line = file.readline(64)
            if not line:
                break
            end = end if in_transaction else file.tell()
            continue
        count = _number(line, b"*")
        if count is None:
            return end if file.tell() >= size and not line.endswith(b"\n") else None
        words = list[bytes]()
        for _ in range(count):
            word = _word(file, size)
            if word is None:
                return end if file.tell() >= size else None
            words.append(word)
        name = words[0].upper() if words else b""
        in_transaction = name == b"MULTI" or (in_transaction and name != b"EXEC")
        if not in_transaction:
            end = file.tell()
    return end


def _word(file: IO[bytes], size: int) -> bytes | None:
    """The start of the next word; None if it is not complete, or not a word."""
    length = _number(file.readline(64), b"$")
    if length is None:
        return None
    start = file.tell()
    word = file.read(min(length, 16))
    if start + length + 2 > size:
        file.seek(size)
        return None
    file.seek(start + length)
    return word if file.read(2) == b"\r\n" else None


def _number(line: bytes, mark: bytes) -> int | None:
    digits = line[1:-2]
    is_number = line[:1] == mark and line[-2:] == b"\r\n" and digits.isdigit()
    return int(digits) if is_number else None


def _last_increment(folder: Path) -> Path | None:
    """The file that the server appends to, as its manifest says."""
    manifest = folder / "appendonly.aof.manifest"
    if not manifest.exists():
        return None
    names = _INCREMENT.findall(manifest.read_text(errors="replace"))
    return folder / names[-1] if names else None
