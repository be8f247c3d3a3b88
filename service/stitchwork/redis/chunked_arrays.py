"""Arrays of any size under one key: a hash of blocks, each a value with its own checksum.

A server stores values of at most 512 MB, and one call may take no longer than its timeout; so
large arrays are written and read a few megabytes at a time. There is still one key, which expires,
persists and is deleted as a whole.
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
# A new or temporary key gets a lifetime; a persistent key stays persistent.
WRITE: Final = """
local ttl = redis.call('TTL', KEYS[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
if ttl ~= -1 then redis.call('EXPIRE', KEYS[1], ARGV[3]) end
return 1
"""

Block = Mapping[str, slice]
"""The rows of each array that one block holds."""


def write(
    server: RedisClient,
    key: str,
    arrays: Mapping[str, NDArray[Any]],
    seconds: int,
    *,
    max_block_bytes: int = BLOCK_BYTES,
) -> Check:
    """Store arrays under a key for a limited time.

    Args:
        server: The server.
        key: The key. Equal keys mean equal arrays: a complete key is not written again.
        arrays: Named arrays of at least one axis, along which they are split.
        seconds: Lifetime; a key that was made persistent meanwhile stays persistent.
        max_block_bytes: Size of one block, unless a single row is larger.

    Returns:
        A check that holds as long as all blocks are there.

    Raises:
        UnavailableError: If the server is unavailable, or out of memory.
    """
    blocks = _split(arrays, max_block_bytes)
    complete = Check(("HLEN", key), len(blocks))
    with server.session() as client:
        if client.hlen(key) == len(blocks):
            return complete
    shapes = {name: [array.dtype.str, *array.shape] for name, array in arrays.items()}
    for i, block in enumerate(blocks):
        starts = {name: rows.start for name, rows in block.items()}
        data = pack(
            {name: arrays[name][rows] for name, rows in block.items()},
            {"blocks": len(blocks), "arrays": shapes, "starts": starts},
        )
        server.run_script(WRITE, (key,), i, data, seconds)
    return complete


def read(server: RedisClient, key: str) -> Arrays | None:
    """The arrays under a key, read-only; None if there are none, or some blocks are missing.

    Raises:
        CorruptDataError: If a block fails its checksum.
        UnavailableError: If the server is unavailable.
    """
    arrays: Arrays = {}
    count, i = 1, 0
    while i < count:
        with server.session() as client:
            data = cast(bytes | None, client.hget(key, str(i)))
        if data is None:
            return None
        parts, meta = unpack(data)
        try:
            if meta["blocks"] == 1:
                return parts
            if not i:
                count = meta["blocks"]
                for name, (dtype, *shape) in meta["arrays"].items():
                    arrays[name] = np.empty(shape, np.dtype(dtype))
            for name, rows in parts.items():
                start = meta["starts"][name]
                arrays[name][start : start + len(rows)] = rows
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptDataError(f"block {i} of {key} does not belong to the others") from error
        i += 1
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _split(arrays: Mapping[str, NDArray[Any]], max_bytes: int) -> list[Block]:
    """The rows of each block; as few blocks as `max_bytes` for each allow."""
    blocks: list[dict[str, slice]] = [{}]
    free = max_bytes
    for name, array in arrays.items():
        row_bytes = max(1, array.nbytes // max(1, len(array)))
        start = 0
        while start < len(array) or name not in blocks[-1]:
            count = min(len(array) - start, free // row_bytes)
            if not count and len(array) and blocks[-1]:
                blocks.append({})
                free = max_bytes
                continue
            # A row that is larger than a block is alone in one.
            count = min(len(array) - start, max(1, count))
            blocks[-1][name] = slice(start, start + count)
            start, free = start + count, max(0, free - count * row_bytes)
    return list(blocks)
