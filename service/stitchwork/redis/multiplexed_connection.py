"""One connection that many callers share: requests go out together, replies come in their order."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    DefaultParser,
    SSLConnection,
    parse_url,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from stitchwork.redis import connections, urls
from stitchwork.redis.cluster import SlotOwner, render_address
from stitchwork.redis.commands import Command, Packet

_INCOMPLETE: Final = object()
SLICE_BYTES: Final = 1 << 20
"""Bytes that are given to the transport at once, which copies what the server does not read."""


class Call:
    """Commands of one caller, and the future of their replies.

    Attributes:
        commands: The commands.
        future: Gets the replies, in the order of the commands.
        deadline: When it fails, by the event loop's clock.
        returns_errors: Whether errors are returned among the replies instead of raised.
        replies: The replies that have come.
        missing: Number of replies that have not.
        is_resent: Whether it was sent a second time after a connection broke.
        moved_from: The connection to a node of a cluster that redirected it to another.
    """

    __slots__ = (
        *("commands", "future", "deadline", "returns_errors"),
        *("replies", "missing", "is_resent", "moved_from"),
    )

    def __init__(
        self,
        commands: Sequence[Command],
        future: "asyncio.Future[list[Any]]",
        deadline: float,
        returns_errors: bool,
    ) -> None:
        self.commands = commands
        self.future = future
        self.deadline = deadline
        self.returns_errors = returns_errors
        self.replies: list[Any] = [None] * len(commands)
        self.missing = len(commands)
        self.is_resent = False
        self.moved_from: MultiplexedConnection | None = None


Request = tuple[Call, int, Packet]
"""A call, the index of one of its commands, and that command as bytes."""


class MultiplexedConnection(asyncio.Protocol):
    """Writes requests and matches replies to them.

    Args:
        on_reply: Called with each request and its reply, which may be an exception.
        on_push: Called with each message that is not a reply.
        on_close: Called once, with this connection, when it is closed by whichever side.
    """

    def __init__(
        self,
        on_reply: Callable[[Request, Any], None],
        on_push: Callable[[list[Any]], None],
        on_close: "Callable[[MultiplexedConnection, BaseException | None], None]",
    ) -> None:
        self.unanswered: deque[Request] = deque()
        self._on_reply = on_reply
        self._on_push = on_push
        self._on_close = on_close
        self._writer: asyncio.StreamWriter | None = None
        self._transport: asyncio.WriteTransport | None = None
        self._unwritten: deque[bytes | memoryview] = deque()
        self._is_paused = False
        self._reader = hiredis.Reader(
            protocolError=RedisConnectionError,
            replyError=DefaultParser.parse_error,
            notEnoughData=_INCOMPLETE,
        )

    async def open(self, url: str, seconds: float, owner: SlotOwner | None = None) -> None:
        """Connect and authenticate, as redis-py does, and then take over the transport.

        Args:
            url: Any URL that `urls.validate_url` accepts.
            seconds: Seconds that it may take.
            owner: What finds the node, if the URL is of a cluster.

        Raises:
            RedisError: If the server cannot be reached, or refuses.
            TimeoutError: If it takes longer.
        """
        connection = await asyncio.wait_for(_connect(url, seconds, owner), seconds)
        # A writer that is deleted closes its transport.
        self._writer = take_writer(connection)
        self._transport = self._writer.transport
        self._transport.set_protocol(self)

    def send(self, requests: Iterable[Request]) -> None:
        """Write requests in one packet."""
        requests = list(requests)
        self.unanswered.extend(requests)
        parts = [part for _, _, packet in requests for part in packet]
        if len(parts) == len(requests):
            self.write(b"".join(parts))
            return
        # Large ones are not copied.
        self._unwritten.extend(parts)
        self._write_slices()

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes after all others, as fast as the server reads them."""
        self._unwritten.append(data)
        self._write_slices()

    def discard(self, future: "asyncio.Future[list[Any]]") -> list[Request] | None:
        """Close it, if bytes of this call are not written yet.

        Returns:
            The requests after it, of which nothing is written; None if the call is not here, or is
            written, so that its reply will come.
        """
        requests = list(self.unanswered)
        places = [i for i, (call, _, _) in enumerate(requests) if call.future is future]
        if not places:
            return None
        following = requests[places[-1] + 1 :]
        unwritten = sum(map(len, self._unwritten))
        if unwritten <= sum(len(part) for _, _, packet in following for part in packet):
            return None
        before = requests[: places[-1]]
        self.unanswered = deque(request for request in before if request[0].future is not future)
        self.close()
        return following

    def close(self) -> None:
        """Close it at once; requests without a reply stay in `unanswered`."""
        self._unwritten.clear()
        if self._transport is not None:
            self._transport.abort()

    def pause_writing(self) -> None:
        """The transport has more than the server reads at the moment."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """The server has read most of it."""
        self._is_paused = False
        self._write_slices()

    def data_received(self, data: bytes) -> None:
        """Match the replies that have come to their requests."""
        self._reader.feed(data)
        while True:
            try:
                reply = self._reader.gets()
            except RedisConnectionError as error:
                self._lose(error)
                return
            if reply is _INCOMPLETE:
                return
            if type(reply) is hiredis.PushNotification:
                self._on_push(cast(list[Any], reply))
            elif self.unanswered:
                self._on_reply(self.unanswered.popleft(), reply)
            else:
                # Such as the reason why a server closes the connection.
                self._lose(reply if isinstance(reply, Exception) else None)
                return

    def connection_lost(self, error: BaseException | None) -> None:
        """Report the end of the connection."""
        self._lose(error)

    def _write_slices(self) -> None:
        while self._unwritten and not self._is_paused and self._transport is not None:
            parts, size = list[bytes | memoryview](), 0
            while self._unwritten and size < SLICE_BYTES:
                data = self._unwritten.popleft()
                free = SLICE_BYTES - size
                if len(data) > free:
                    self._unwritten.appendleft(memoryview(data)[free:])
                    data = memoryview(data)[:free]
                parts.append(data)
                size += len(data)
            self._transport.writelines(parts)

    def _lose(self, error: BaseException | None) -> None:
        self._unwritten.clear()
        if self._transport is not None:
            transport, self._transport = self._transport, None
            transport.abort()
            self._on_close(self, error)


def take_writer(connection: AbstractConnection) -> asyncio.StreamWriter:
    """Take the stream out of a connection of redis-py, which no longer uses or closes it.

    redis-py has no public attribute for it.
    """
    writer = connection._writer
    if writer is None:
        raise ValueError("expected an open connection")
    connection._reader = connection._writer = None
    return writer


async def _connect(url: str, seconds: float, owner: SlotOwner | None) -> AbstractConnection:
    sentinels, cluster = urls.parse_sentinel_url(url), urls.parse_cluster_url(url)
    service = sentinels or cluster
    if service is None:
        options: dict[str, Any] = dict(parse_url(url))
    else:
        options = dict(parse_url(service.server_url))
        options.pop("connection_class", None)
        # They are asked by the blocking client, in a thread: it happens once a connection.
        if sentinels is not None:
            address = await asyncio.to_thread(connections.find_master, sentinels, seconds)
        elif owner is not None:
            address = await asyncio.to_thread(owner.find)
        else:
            raise ValueError("expected what finds the node of a cluster")
        options |= {"host": address[0], "port": address[1]}
        if urls.is_tls(url):
            options["connection_class"] = SSLConnection
    connection_class = options.pop("connection_class", Connection)
    connection: AbstractConnection = connection_class(
        **options, protocol=3, socket_timeout=seconds, socket_connect_timeout=seconds
    )
    try:
        await connection.connect()  # type: ignore[no-untyped-call]
    except (RedisError, TimeoutError) as error:
        if owner is not None:
            owner.forget()
            error.add_note(f"node {render_address(address)}, as the cluster announces it")
        raise
    return connection
