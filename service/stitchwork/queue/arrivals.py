"""Waiting for jobs on several shards at once: one blocking call on each, by its own connection."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from stitchwork.errors import QueueUnavailableError
from stitchwork.queue.outages import log_outage
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.commands import Command

UNBLOCK_SECONDS: Final = 0.2
"""Time for the other shards to end their calls once one has replied."""

_Reply = asyncio.Future[list[Any]]


class Arrivals:
    """Blocking calls on several shards, of which one that replies ends the others.

    So a worker that has got work takes none elsewhere before it can do it.

    Args:
        shards: The shards.
        block_seconds: Seconds that a call blocks at most.
    """

    def __init__(self, shards: Sequence[QueueShard], block_seconds: float) -> None:
        self._loop = asyncio.new_event_loop()
        self._clients = {shard.number: AsyncRedisClient.of(shard) for shard in shards}
        self._blocking = {
            number: client.blocking(block_seconds) for number, client in self._clients.items()
        }
        self._calls: dict[int, tuple[_Reply, _Reply]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every call has ended."""
        return not self._calls

    def wait(self, commands: Mapping[int, Command]) -> dict[int, Any]:
        """The replies that have come, or the errors, once there is one.

        Args:
            commands: The command that blocks, for each of the shards by its number. A shard that
                has not replied to the last one yet gets no other.
        """
        return self._loop.run_until_complete(self._wait(commands))

    def poll(self) -> dict[int, Any]:
        """The replies that have come since, or the errors; does not wait."""
        return self._loop.run_until_complete(self._poll())

    def close(self) -> None:
        """Close all connections."""
        for client in (*self._clients.values(), *self._blocking.values()):
            self._loop.run_until_complete(client.close())
        self._loop.close()

    async def _wait(self, commands: Mapping[int, Command]) -> dict[int, Any]:
        for number, command in commands.items():
            if number not in self._calls:
                client = self._blocking[number]
                # The number of the connection, by which the call can be ended.
                self._calls[number] = client.send(("CLIENT", "ID")), client.send(command)
        replies = [reply for _, reply in self._calls.values()]
        await asyncio.wait(replies, return_when=asyncio.FIRST_COMPLETED)
        pending = [number for number, (_, reply) in self._calls.items() if not reply.done()]
        if pending:
            tasks = [self._loop.create_task(self._unblock(number)) for number in pending]
            _, late = await asyncio.wait(tasks, timeout=UNBLOCK_SECONDS)
            for task in late:
                task.cancel()
        return self._pop_results()

    async def _poll(self) -> dict[int, Any]:
        await asyncio.wait([reply for _, reply in self._calls.values()], timeout=0)
        return self._pop_results()

    def _pop_results(self) -> dict[int, Any]:
        """The replies to the calls that have ended, or their errors."""
        done = {number: call for number, call in self._calls.items() if call[1].done()}
        self._calls = {number: call for number, call in self._calls.items() if number not in done}
        return {number: _result(*call) for number, call in done.items()}

    async def _unblock(self, number: int) -> None:
        """End the call on a shard, and wait until it has ended."""
        identity, reply = self._calls[number]
        # Not awaited, which would cancel it together with this task.
        await asyncio.wait([identity])
        if identity.exception() is not None:
            return
        try:
            command = ("CLIENT", "UNBLOCK", int(identity.result()[0]))
            await self._clients[number].execute(command)
        except QueueUnavailableError as error:
            log_outage(error, "a call that waits for jobs of this shard goes on for a moment")
        await asyncio.wait([reply])


def _result(identity: _Reply, reply: _Reply) -> Any:
    """The reply to the command that blocked, or its error."""
    failure = reply.exception()
    # Otherwise asyncio would report that nobody has read it.
    if identity.done():
        identity.exception()
    if failure is None:
        return reply.result()[0]
    if isinstance(failure, QueueUnavailableError):
        return failure
    raise failure
