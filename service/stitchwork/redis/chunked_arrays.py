"""Arrays of any size under one key: a hash of blocks, each a value of its own with its checksum.

A server takes values of 512 MB at most, and one call may take no longer than its timeout; so what
is large is written and read a few megabytes at a time. The key is still one: it expires, is kept
and is removed as a whole.
"""

from collections.abc import Mapping
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from stitchwork.errors import CorruptDataError
from stitchwork.redis.client import Check, RedisClient
from stitchwork.redis.serialization import pack, unpack
from stitchwork.resources import Arrays

BLOCK_BYTES: Final = 16 * 1024 * 1024
"""Small enough for a disk that syncs 8 MB in a second, and a call that may take two."""

# KEYS key · ARGV field, block, seconds
# A lifetime is set on what is new or temporary, never on what is meant to last already.
WRITE: Final = """
local left = redis.call('TTL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if left ~= -1 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
"""

Cut = Mapping[str, slice]
"""Which rows of which arrays one block holds."""


def write(
    server: RedisClient,
    key: str,
    arrays: Mapping[str, NDArray[Any]],
    seconds: int,
    *,
    most: int = BLOCK_BYTES,
) -> Check:
    """Store arrays under a key, for a while.

    Args:
        server: The server.
        key: The key. Equal keys mean equal arrays: what is whole already is not written again.
        arrays: Named arrays of at least one axis, along which they are cut.
        seconds: How long they stay; what was made to last meanwhile stays as it is.
        most: Bytes of one block, unless a single row has more.

    Returns:
        Holds as long as all blocks are there.

    Raises:
        UnavailableError: If the server is away, or has no room.
    """
    cuts = _cut(arrays, most)
    whole = Check(("HLEN", key), len(cuts))
    with server.session() as client:
        if client.hlen(key) == len(cuts):
            return whole
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    for i, cut in enumerate(cuts):
        starts = {name: rows.start for name, rows in cut.items()}
        block = pack(
            {name: arrays[name][rows] for name, rows in cut.items()},
            {"blocks": len(cuts), "arrays": shapes, "starts": starts},
        )
        server.run_script(WRITE, (key,), i, block, seconds)
    return whole


def read(server: RedisClient, key: str) -> Arrays | None:
    """What was stored under a key; None if it is not there, or not whole.

    Raises:
        CorruptDataError: If a block fails its checksum.
        UnavailableError: If the server is away.
    """
    found: Arrays = {}
    count, i = 1, 0
    while i < count:
        with server.session() as client:
            data = cast(bytes | None, client.hget(key, str(i)))
        if data is None:
            return None
        parts, told = unpack(data)
        try:
            if told["blocks"] == 1:
                return parts
            if not i:
                count = told["blocks"]
                for name, (dtype, *shape) in told["arrays"].items():
                    found[name] = np.empty(shape, np.dtype(dtype))
            for name, rows in parts.items():
                start = told["starts"][name]
                found[name][start : start + len(rows)] = rows
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(f"block {i} of {key} does not belong to the others") from error
        i += 1
    for array in found.values():
        array.flags.writeable = False
    return found


def _cut(arrays: Mapping[str, NDArray[Any]], most: int) -> list[Cut]:
    """The rows that each block holds; as few blocks as `most` bytes for each allow."""
    cuts: list[dict[str, slice]] = [{}]
    room = most
    for name, array in arrays.items():
        each = max(1, array.nbytes // max(1, len(array)))
        start = 0
        while start < len(array) or name not in cuts[-1]:
            count = min(len(array) - start, room // each)
            if not count and len(array) and cuts[-1]:
                cuts.append({})
                room = most
                continue
            # A row that is larger than any block has one to itself.
            count = min(len(array) - start, max(1, count))
            cuts[-1][name] = slice(start, start + count)
            start, room = start + count, max(0, room - count * each)
    return list(cuts)
