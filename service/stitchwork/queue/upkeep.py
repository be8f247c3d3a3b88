"""Removal of what dead processes and unused encoders left on the queue server."""

from typing import Final

from stitchwork.queue import streams, upkeep_scripts
from stitchwork.queue.keys import ShardKeys
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.commands import script_command

EXPIRED_MS: Final = 3_600_000
IDLE_STREAM_MS: Final = 3_600_000
REMOVAL_SECONDS: Final = 30


async def remove_expired(
    client: AsyncRedisClient,
    shard: ShardKeys,
    *,
    expired_ms: int = EXPIRED_MS,
    idle_stream_ms: int = IDLE_STREAM_MS,
) -> int:
    """Remove what dead processes and unused encoders left; one process at a time does it.

    Args:
        client: A client of a shard's server.
        shard: The keys of the shard.
        expired_ms: Silence after which everything that a process left is removed.
        idle_stream_ms: Time without a job after which the empty streams of an encoder are removed.

    Returns:
        How many processes, encoders and consumers were removed.
    """
    (is_first,) = await client.execute(("SET", shard.swept, b"", "NX", "EX", REMOVAL_SECONDS))
    if not is_first:
        return 0
    workers, starting, apis, encoders = await client.execute(
        *(
            script_command(upkeep_scripts.REMOVE_SILENT, keys, expired_ms)
            for keys in (
                (shard.workers, shard.announced, shard.starting),
                (shard.starting, shard.announced, shard.workers),
                (shard.apis, shard.announced),
            )
        ),
        ("HGETALL", shard.encoders),
    )
    removed = len(workers) + len(starting) + len(apis)
    if apis:
        await client.execute(("DEL", *(shard.replies(api.decode()) for api in apis)))
    for encoder, _, names, _ in streams.parse_encoders(encoders):
        keys = (
            *(shard.encoders, shard.pace(encoder), shard.credits(encoder), shard.callers(encoder)),
            *(shard.stream(name) for name in names),
        )
        removed += await client.run_script(
            upkeep_scripts.REMOVE_IDLE,
            keys,
            encoder,
            expired_ms,
            idle_stream_ms,
            streams.PACE_SECONDS,
        )
    return removed
