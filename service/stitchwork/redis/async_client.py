"""A client of one Redis-protocol server for an event loop: all callers share one connection.

What callers send in one turn of the event loop goes out in one packet. Every call has a time limit
and raises our own errors; a caller that is cancelled disturbs no other.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stitchwork.errors import UnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.redis.cluster import guard
from stitchwork.redis.commands import (
    Command,
    Word,
    command_packet,
    guarded_command,
    pack_command,
    script_command,
    with_script_text,
)
from stitchwork.redis.connections import OUTDATED, hash_tag, key_prefix, slot_owner
from stitchwork.redis.failures import server_name, unavailable_error
from stitchwork.redis.multiplexed_connection import Call, MultiplexedConnection, Request


class AsyncRedisClient:
    """Calls of one event loop, over one connection that is opened at the first call.

    If the connection breaks, calls without a reply are sent once more, so none may do harm twice.

    Args:
        url: The server's URL, see `stitchwork.redis.urls`.
        timeout: Seconds that one call may take.
        error_class: The error to raise if the server is unavailable.
        failure_pause: Seconds after a failure to reach the server in which further calls fail at
            once.
        block_seconds: Seconds that a blocking command may take in addition to the timeout. Such a
            command delays those after it, so each needs a client of its own.
        tag: The hash tag of its keys on a cluster; empty: that of the registry or of the queue.
        name: What the server is called in messages; empty: what its error says.
        channels: Channels to subscribe to on every connection.
        on_push: Called with each message that is not a reply, such as those of the channels and
            the confirmations of subscriptions.
        on_connect: Called when a connection is open, before anything else is sent on it.
        on_disconnect: Called when a connection that was open is closed.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        error_class: type[UnavailableError],
        *,
        failure_pause: float = 0.5,
        block_seconds: float = 0.0,
        tag: str = "",
        name: str = "",
        channels: Sequence[str] = (),
        on_push: Callable[[list[Any]], None] = lambda _: None,
        on_connect: Callable[[], None] = lambda: None,
        on_disconnect: Callable[[], None] = lambda: None,
    ) -> None:
        self.url = url
        self.timeout = timeout
        self._error_class = error_class
        self._failure_pause = failure_pause
        self._limit = timeout + block_seconds
        self._channels = tuple(channels)
        self._on_push = on_push
        self._on_connect = on_connect
        self._on_disconnect = on_disconnect
        self._tag = tag or hash_tag(error_class)
        self._name = name or server_name(error_class)
        prefix = key_prefix(url, self._tag)
        self._owner = slot_owner(url, prefix, timeout)
        self._guard = guard(prefix + "absent") if self._owner else ""
        self._unsent: deque[Request] = deque()
        self._moved: deque[Request] = deque()
        self._connection: MultiplexedConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._flush_scheduled = False
        self._watchdog: asyncio.TimerHandle | None = None
        self._down_until = float("-inf")
        self._closed = False

    @classmethod
    def of(cls, client: RedisClient) -> "AsyncRedisClient":
        """A client of the same server, with the same limits."""
        return cls(
            client.url,
            client.timeout,
            client.error_class,
            failure_pause=client.failure_pause,
            tag=client.tag,
            name=client.name,
        )

    def send(self, *commands: Command, returns_errors: bool = False) -> "asyncio.Future[list[Any]]":
        """Send commands with all others of this turn of the event loop.

        Args:
            commands: The commands, see `script_command` for scripts.
            returns_errors: Return a command's error in place of its reply, instead of raising it
                in place of all replies.

        Returns:
            A future of the replies, as the parser returns them. If it is cancelled before the turn
            ends, nothing is sent.

        Raises:
            UnavailableError: By the future, if the server is unavailable or refuses a command.
        """
        loop = asyncio.get_running_loop()
        now = loop.time()
        commands = tuple(guarded_command(command, self._guard) for command in commands)
        future: asyncio.Future[list[Any]] = loop.create_future()
        call = Call(commands, future, now + self._limit, returns_errors)
        if now < self._down_until:
            future.set_exception(self._error("did not answer a moment ago"))
        elif self._closed:
            future.set_exception(self._error("is no longer used by this process"))
        else:
            for index, command in enumerate(commands):
                self._unsent.append((call, index, command_packet(command)))
            self._schedule_flush(loop)
        return future

    async def execute(self, *commands: Command) -> list[Any]:
        """The replies to several commands in one round trip, as the parser returns them.

        Raises:
            UnavailableError: If the server is unavailable, or refuses one of them.
        """
        return await self.send(*commands)

    async def run_script(self, script: str, keys: Sequence[str], *arguments: Word) -> Any:
        """The reply of a script.

        Raises:
            UnavailableError: If the server is unavailable, or refuses it.
        """
        (reply,) = await self.send(script_command(script, keys, *arguments))
        return reply

    async def now_ms(self) -> int:
        """Milliseconds since the epoch by the server's clock, which all processes share."""
        ((seconds, micros),) = await self.send(("TIME",))
        return int(seconds) * 1000 + int(micros) // 1000

    async def ping(self) -> bool:
        """True once the server replied; an `UnavailableError` if it does not."""
        await self.send(("PING",))
        return True

    def discard(self, future: "asyncio.Future[list[Any]]") -> None:
        """Drop the bytes of a call that nobody waits for; its connection is closed for that.

        If all of them are written, nothing changes: the server has the call, and will reply.
        """
        following = self._connection.discard(future) if self._connection is not None else None
        unsent = deque(request for request in self._unsent if request[0].future is not future)
        if following is None and len(unsent) == len(self._unsent):
            return
        future.cancel()
        self._unsent = unsent
        self._moved.extend(following or ())

    def blocking(self, seconds: float) -> "AsyncRedisClient":
        """A client with its own connection, for commands that block for at most `seconds`."""
        return AsyncRedisClient(
            self.url,
            self.timeout,
            self._error_class,
            failure_pause=self._failure_pause,
            block_seconds=seconds,
            tag=self._tag,
            name=self._name,
        )

    def connect(self) -> None:
        """Begin to open the connection, if it is not open: for a client that only listens."""
        if not self._closed and self._connection is None and self._connecting is None:
            self._connecting = asyncio.ensure_future(self._open())

    async def close(self) -> None:
        """Close the connection; calls that wait fail."""
        self._closed = True
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait([self._connecting])
        if self._connection is not None:
            self._connection.close()
        if self._watchdog is not None:
            self._watchdog.cancel()
        self._fail(self._unsent, RedisConnectionError("closed"))

    def _schedule_flush(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            loop.call_soon(self._flush)
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._limit, self._watch)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._connection is None:
            if self._unsent:
                self.connect()
            return
        # A caller that left within this turn sends nothing.
        requests = [request for request in self._unsent if not request[0].future.done()]
        self._unsent.clear()
        if requests:
            self._connection.send(requests)

    async def _open(self) -> None:
        connection = MultiplexedConnection(self._on_reply, self._on_push, self._on_close)
        try:
            await connection.open(self.url, self.timeout, self._owner)
        except (RedisError, OSError, TimeoutError, ValueError) as error:
            self._connecting = None
            failure = error
            if not isinstance(failure, RedisError):
                failure = RedisConnectionError("the connection could not be opened")
                failure.__cause__ = error
            self._fail(self._unsent, failure)
            self._subscribe_later()
            return
        self._connecting = None
        self._connection = connection
        if self._channels:
            connection.write(pack_command(("SUBSCRIBE", *self._channels)))
        self._on_connect()
        self._flush()

    def _subscribe_later(self) -> None:
        if self._channels and not self._closed:
            asyncio.get_running_loop().call_later(self._failure_pause, self.connect)

    def _on_reply(self, request: Request, reply: Any) -> None:
        call, index, _ = request
        if isinstance(reply, NoScriptError) and call.commands[index][0] == "EVALSHA":
            self._load_script(request)
            return
        if isinstance(reply, MovedError) and self._follow(request, reply):
            return
        call.replies[index] = reply
        call.missing -= 1
        if isinstance(reply, OUTDATED) and self._connection is not None:
            # A master that became a replica keeps its clients; a new connection, by the same name
            # through the sentinels or in the cluster, reaches the current master.
            if self._owner:
                self._owner.forget()
            self._connection.close()
        if not call.missing and not call.future.done():
            if not call.returns_errors:
                for item in call.replies:
                    if isinstance(item, RedisError):
                        call.future.set_exception(self._unavailable(item))
                        return
            call.future.set_result(call.replies)

    def _follow(self, request: Request, redirection: MovedError) -> bool:
        """Send a request again, to the node that its keys have moved to, if it is the first time.

        Returns:
            False if another node has already redirected this call.
        """
        call, connection = request[0], self._connection
        if self._owner is None or connection is None or call.moved_from not in (None, connection):
            return False
        call.moved_from = connection
        self._owner.move(redirection)
        self._moved.append(request)
        connection.close()
        return True

    def _load_script(self, request: Request) -> None:
        """Send a script by its text, since the server does not know it by its hash."""
        call, index, _ = request
        packet = command_packet(with_script_text(call.commands[index]))
        self._unsent.append((call, index, packet))
        self._schedule_flush(asyncio.get_running_loop())

    def _on_close(self, connection: MultiplexedConnection, error: BaseException | None) -> None:
        self._connection = None
        moved, self._moved = self._moved, deque()
        requests, connection.unanswered = connection.unanswered, deque()
        failure = RedisConnectionError("the connection was closed")
        failure.__cause__ = error
        resent: list[Request] = []
        for request in requests:
            call = request[0]
            if call.is_resent or self._closed:
                self._fail_call(call, failure)
            elif not call.future.done():
                resent.append(request)
        for request in resent:
            request[0].is_resent = True
        self._unsent.extendleft(reversed([*moved, *resent]))
        self._on_disconnect()
        if self._closed:
            self._fail(self._unsent, failure)
        elif self._unsent:
            self.connect()
        self._subscribe_later()

    def _watch(self) -> None:
        """Fail the calls that have waited too long; a server that is silent is disconnected."""
        loop = asyncio.get_running_loop()
        self._watchdog = None
        connection = self._connection
        waiting = [*(connection.unanswered if connection else ())][:1] + [*self._unsent][:1]
        if not waiting:
            return
        deadline = min(call.deadline for call, _, _ in waiting)
        if deadline > loop.time():
            self._watchdog = loop.call_at(deadline, self._watch)
            return
        failure = RedisTimeoutError("no reply came in time")
        if connection is not None:
            self._fail(connection.unanswered, failure)
            connection.close()
        self._fail(self._unsent, failure)

    def _fail(self, requests: deque[Request], failure: RedisError) -> None:
        if not self._closed and isinstance(failure, (RedisConnectionError, RedisTimeoutError)):
            self._down_until = asyncio.get_running_loop().time() + self._failure_pause
        for call, _, _ in requests:
            self._fail_call(call, failure)
        requests.clear()

    def _fail_call(self, call: Call, failure: RedisError) -> None:
        if not call.future.done():
            call.future.set_exception(self._unavailable(failure))

    def _unavailable(self, error: RedisError) -> UnavailableError:
        result = unavailable_error(error, self._error_class, self.url, self._name)
        result.__cause__ = error
        return result

    def _error(self, predicate: str) -> UnavailableError:
        return self._error_class(f"{self._name} {predicate}")
