"""One Redis-protocol server as the rest of the service sees it: bounded calls, our own errors."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stitchwork.errors import UnavailableError
from stitchwork.redis.connections import connect, why

PREFIX: Final = "stitchwork:"

COMMIT: Final = """
local at = 0
local function take() at = at + 1; return ARGV[at] end
local function command()
  local words = {}
  for i = 1, tonumber(take()) do words[i] = take() end
  return words
end
for _ = 1, tonumber(take()) do
  local words, expected = command(), take()
  if tostring(redis.call(unpack(words)) or '') ~= expected then return 0 end
end
for _ = 1, tonumber(take()) do redis.call(unpack(command())) end
return 1
"""

Word = str | bytes | int | float
Command = Sequence[Word]


@dataclass(frozen=True, slots=True)
class Check:
    """What a read command must still answer for a commit to go through; nil reads as empty."""

    command: Command
    expected: Word


class RedisClient:
    """A connection pool with bounded calls.

    Args:
        url: Where it is, as `stitchwork.redis.urls` says.
        timeout: Seconds one call may take.
        gone: The error raised when the server is away or silent.
        pause: Seconds after a failed call in which further calls fail at once, so that a server
            that accepts and never answers costs one timeout and not one per request.
        replicas: How many replicas must have a promised write in their append-only files too.
        patience: Seconds a call may take beyond the timeout, because it blocks on purpose.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        gone: type[UnavailableError],
        *,
        pause: float = 0.5,
        replicas: int = 0,
        patience: float = 0.0,
    ) -> None:
        self.redis: redis.Redis = connect(url, timeout, patience=patience)
        self.url = url
        self.timeout = timeout
        self.replicas = replicas
        self._gone = gone
        self._pause = pause
        self._down_until = 0.0

    @contextmanager
    def session(self) -> Generator[redis.Redis, None, None]:
        """The client, with its failures turned into the error of this server.

        Raises:
            UnavailableError: If the server cannot be reached, does not answer in time, or refuses
                for a reason of its own (out of memory, loading, read-only).
        """
        if time.monotonic() < self._down_until:
            raise self._gone(f"{self._name} did not answer a moment ago")
        try:
            yield self.redis
        except (RedisConnectionError, RedisTimeoutError) as error:
            self._down_until = time.monotonic() + self._pause
            raise self._gone(f"{self._name} {why(error, self.url)}") from error
        except ReadOnlyError as error:
            self._look_again()
            raise self._gone(f"{self._name} has become a read-only replica") from error
        except RedisError as error:
            raise self._gone(f"{self._name} refused a command: {type(error).__name__}") from error

    def commit(
        self, checks: Sequence[Check], commands: Sequence[Command], *, promise: int = 0
    ) -> bool:
        """Run all commands at once, if every check still holds.

        Args:
            checks: What must still be true.
            commands: What is written, in order.
            promise: Milliseconds to wait for the append-only files of the server and of its
                `durable_replicas`; 0 does not ask.

        Returns:
            False, with nothing written, if a check no longer holds.

        Raises:
            UnavailableError: If the server is away, or did not promise the write in time.
        """
        words: list[Word] = [len(checks)]
        for check in checks:
            words += [len(check.command), *check.command, check.expected]
        words.append(len(commands))
        for command in commands:
            words += [len(command), *command]
        keys = [str(command[1]) for command in [*(c.command for c in checks), *commands]]
        with self.session() as client:
            # In one packet and so on one connection: WAITAOF speaks of the writes of its own.
            pipe = client.pipeline(transaction=False)
            _raw(pipe, *call(COMMIT, keys, *words))
            if promise:
                _raw(pipe, "WAITAOF", 1, self.replicas, promise)
            done, *promised = pipe.execute()
        if promised:
            here, copies = map(int, promised[0])
            if here < 1:
                raise self._gone(f"{self._name} did not write to its append-only file in time")
            if copies < self.replicas:
                self._look_again()
                raise self._gone(
                    f"{copies} of {self.replicas} replicas of the {self._name} wrote to their "
                    "append-only files in time; it is stored, and may be lost with the master"
                )
        return bool(done)

    def confirms_writes(self) -> bool:
        """Whether the server keeps an append-only file and can say when a write is in it."""
        with self.session() as client:
            kept = bool(client.info("persistence").get("aof_enabled"))
            try:
                _raw(client, "WAITAOF", 0, 0, 1)
            except ResponseError:
                return False
            return kept

    def execute(self, *commands: Command) -> list[Any]:
        """What the server says to several commands in one round trip, as it comes from the wire.

        Costs half of what a pipeline does, and stands where every request passes. If the
        connection breaks they are sent again, so none may do harm twice.

        Raises:
            UnavailableError: If the server is away, or refuses one of them.
        """
        with self.session() as client:
            connection: Any = client.connection_pool.get_connection()

            def exchange() -> list[Any]:
                connection.send_packed_command(connection.pack_commands(commands))
                return [connection.read_response() for _ in commands]

            try:
                found: list[Any] = connection.retry.call_with_retry(
                    exchange, lambda _: connection.disconnect()
                )
            except BaseException:
                # What is still to be read would be taken for the answer to somebody else.
                connection.disconnect()
                raise
            finally:
                client.connection_pool.release(connection)
            return found

    def run_script(self, script: str, keys: Sequence[str], *arguments: Word) -> Any:
        """What a script answers; if the connection breaks, it is sent again.

        Raises:
            UnavailableError: If the server is away, or refuses it.
        """
        (answer,) = self.execute(call(script, keys, *arguments))
        return answer

    def now_ms(self) -> int:
        """Milliseconds since the epoch by the server's clock, the one that all replicas share."""
        with self.session() as client:
            seconds, micros = client.time()
            return seconds * 1000 + micros // 1000

    def ping(self) -> bool:
        """True once the server answered.

        Raises:
            UnavailableError: If it does not.
        """
        with self.session() as client:
            return bool(client.ping())

    def blocking(self, seconds: float) -> "RedisClient":
        """The same server for calls that block on purpose, for at most this long."""
        return RedisClient(
            self.url,
            self.timeout,
            self._gone,
            pause=self._pause,
            replicas=self.replicas,
            patience=seconds,
        )

    def close(self) -> None:
        """Give all connections back."""
        self.redis.close()

    def _look_again(self) -> None:
        # A master that lost its part keeps its clients; only a new connection, by the same name
        # or by the sentinels, finds the one that has it now.
        self.redis.connection_pool.disconnect(inuse_connections=False)

    @property
    def _name(self) -> str:
        return self._gone.__name__.removesuffix("Unavailable").lower() + " server"


def call(script: str, keys: Sequence[str], *arguments: Word) -> Command:
    """The command that runs a script."""
    return ("EVAL", script, len(keys), *keys, *arguments)


def _raw(client: Any, *words: Word) -> Any:
    """Send a command that redis-py has no typed method for."""
    return client.execute_command(*words)
