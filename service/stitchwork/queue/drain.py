"""Waits for the jobs of all callers, before the process that replies to some of them ends."""

import asyncio
from typing import Final

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue import scripts, streams
from stitchwork.queue.keys import ShardKeys
from stitchwork.queue.outages import log_outage
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.commands import script_command

POLL_SECONDS: Final = 0.05


async def drain(client: AsyncRedisClient, shard: ShardKeys, seconds: float) -> bool:
    """Wait until every job of a shard that was admitted before this call is answered or cancelled.

    Args:
        client: A client of the shard's server.
        shard: Its keys.
        seconds: How long to wait at most.

    Returns:
        False if it was not within these seconds.
    """
    try:
        before = await client.now_ms()
        async with asyncio.timeout(seconds):
            while await _has_unanswered(client, shard, before):  # noqa: ASYNC110 state of others
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        return False
    except QueueUnavailableError as error:
        log_outage(error, "the shutdown does not wait for jobs")
    return True


async def _has_unanswered(client: AsyncRedisClient, shard: ShardKeys, before_ms: int) -> bool:
    (reply,) = await client.execute(("HGETALL", shard.encoders))
    commands = [
        script_command(scripts.HAS_UNANSWERED, (shard.stream(name),), before_ms)
        for encoder in streams.parse_encoders(reply)
        for name in encoder.names
    ]
    return any(await client.execute(*commands)) if commands else False
