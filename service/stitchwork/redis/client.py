"""A client of one Redis-protocol server: every call has a time limit and raises our own errors."""

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from stitchwork.errors import UnavailableError
from stitchwork.redis.cluster import guard
from stitchwork.redis.commands import (
    Command,
    Word,
    guarded_command,
    pack_command,
    script_command,
    with_script_text,
)
from stitchwork.redis.connections import (
    OUTDATED,
    connect,
    hash_tag,
    key_prefix,
    slot_owner,
)
from stitchwork.redis.failures import server_name, unavailable_error

APPLY: Final = """
local function take() at = at + 1; return ARGV[at] end
local function command()
  local words = {}
  for i = 1, tonumber(take()) do words[i] = take() end
  return words
end
for _ = 1, tonumber(take()) do
  local words, expected = command(), take()
  if tostring(redis.call(unpack(words)) or '') ~= expected then return false end
end
for _ = 1, tonumber(take()) do redis.call(unpack(command())) end
"""
"""The part of a script that runs commands, or returns nil if a check no longer holds.

`at` is the place in ARGV before its words: the number of checks; for each its words and the
expected reply; the number of commands; for each its words. Words are preceded by their number.
"""
COMMIT: Final = f"local at = 0 {APPLY} return 1"


@dataclass(frozen=True, slots=True)
class Check:
    """The reply that a read command must still give for a commit to go through.

    Attributes:
        command: A command that reads.
        expected: Its reply; an empty text stands for nil.
    """

    command: Command
    expected: Word


class RedisClient:
    """A connection pool whose calls have a time limit.

    Args:
        url: The server's URL, see `stitchwork.redis.urls`.
        timeout: Seconds that one call may take.
        error_class: The error to raise if the server is unavailable.
        failure_pause: Seconds after a failed call in which further calls fail at once, so that a
            server that accepts connections and never replies costs one timeout, and not one for
            each request.
        replicas: How many replicas must have a write in their append-only files too.
        block_seconds: Seconds that a blocking command may take in addition to the timeout.
        tag: The hash tag of its keys on a cluster; empty: that of the registry or of the queue.
        name: What the server is called in messages; empty: what its error says.

    Attributes:
        is_answering: Whether the server answered the last call, or has not been called yet. Who
            leaves a server alone that refuses calls sets it to False; the next call that is
            answered sets it again.
    """

    def __init__(
        self,
        url: str,
        timeout: float,
        error_class: type[UnavailableError],
        *,
        failure_pause: float = 0.5,
        replicas: int = 0,
        block_seconds: float = 0.0,
        tag: str = "",
        name: str = "",
    ) -> None:
        self.tag = tag or hash_tag(error_class)
        self.name = name or server_name(error_class)
        self.is_answering = True
        self._prefix = key_prefix(url, self.tag)
        self._owner = slot_owner(url, self._prefix, timeout)
        self._guard = guard(self.key("absent")) if self._owner else ""
        self.redis: redis.Redis = connect(url, timeout, self._owner, block_seconds=block_seconds)
        self.url = url
        self.timeout = timeout
        self.replicas = replicas
        self.error_class = error_class
        self.failure_pause = failure_pause
        self._down_until = 0.0

    def key(self, *parts: str) -> str:
        """The name of a key on this server, of parts that are joined by colons."""
        return self._prefix + ":".join(parts)

    @contextmanager
    def session(self) -> Generator[redis.Redis, None, None]:
        """The client of redis-py, with its errors translated to the one of this server.

        Raises:
            UnavailableError: If the server cannot be reached, does not reply in time, or refuses
                a command; the message has the server's own words.
        """
        if time.monotonic() < self._down_until:
            raise self.error_class(f"{self.name} did not answer a moment ago")
        try:
            yield self.redis
        except RedisError as error:
            if isinstance(error, (RedisConnectionError, RedisTimeoutError)):
                self.is_answering = False
                self._down_until = time.monotonic() + self.failure_pause
            elif isinstance(error, OUTDATED):
                self._leave_server()
            raise unavailable_error(error, self.error_class, self.url, self.name) from error
        self.is_answering = True

    def commit(
        self, checks: Sequence[Check], commands: Sequence[Command], *, aof_timeout_ms: int = 0
    ) -> bool:
        """Run all commands atomically, if every check still holds.

        Args:
            checks: The conditions.
            commands: The writes, in order.
            aof_timeout_ms: Milliseconds to wait until the append-only files of the server and of
                its replicas have the writes; 0 does not wait.

        Returns:
            False, with nothing written, if a check no longer holds.

        Raises:
            UnavailableError: If the server is unavailable, or did not confirm the write in time.
        """
        keys, words = commit_arguments(checks, commands)
        return bool(self.run_script(COMMIT, keys, *words, aof_timeout_ms=aof_timeout_ms))

    def confirms_writes(self) -> bool:
        """Whether the server keeps an append-only file and confirms that a write is in it."""
        with self.session() as client:
            has_aof = bool(client.info("persistence").get("aof_enabled"))
            try:
                _execute(client, "WAITAOF", 0, 0, 1)
            except ResponseError:
                return False
            return has_aof

    def execute(self, *commands: Command, allow_wrong_type: bool = False) -> list[Any]:
        """The replies to several commands in one round trip, as the parser returns them.

        Costs half of what a pipeline of redis-py does, which counts on the path of every request.
        If the connection breaks, the commands are sent again, so none may do harm twice.

        Args:
            commands: The commands.
            allow_wrong_type: Return the error of a command whose key holds another type in place
                of its reply, instead of raising it.

        Raises:
            UnavailableError: If the server is unavailable, or refuses one of them.
        """
        commands = tuple(guarded_command(command, self._guard) for command in commands)
        with self.session() as client:
            connection: Any = client.connection_pool.get_connection()

            def exchange(batch: Sequence[Command]) -> list[Any]:
                def send_and_receive() -> list[Any]:
                    packet = b"".join([pack_command(command) for command in batch])
                    connection.send_packed_command([packet])
                    return [_read_reply(connection) for _ in batch]

                result: list[Any] = connection.retry.call_with_retry(
                    send_and_receive, lambda _: connection.disconnect()
                )
                return result

            try:
                replies = exchange(commands)
                moved = [i for i, reply in enumerate(replies) if isinstance(reply, MovedError)]
                if moved and self._owner:
                    self._owner.move(replies[moved[0]])
                    connection.disconnect()
                    self._disconnect_idle()
                    replies[moved[0] :] = exchange(commands[moved[0] :])
                missing = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                if missing:
                    # With all that follow: WAITAOF is about the writes before it.
                    rest = list(commands[missing[0] :])
                    for i in missing:
                        rest[i - missing[0]] = with_script_text(commands[i])
                    replies[missing[0] :] = exchange(rest)
            except BaseException:
                # An unread reply would be taken for the reply to another call.
                connection.disconnect()
                raise
            finally:
                client.connection_pool.release(connection)
            for reply in replies:
                is_allowed = allow_wrong_type and str(reply).startswith("WRONGTYPE")
                if isinstance(reply, RedisError) and not is_allowed:
                    raise reply
            return replies

    def run_script(
        self, script: str, keys: Sequence[str], *arguments: Word, aof_timeout_ms: int = 0
    ) -> Any:
        """The reply of a script; if the connection breaks, it is sent again.

        Args:
            script: The script.
            keys: The keys that it uses.
            arguments: Its other arguments.
            aof_timeout_ms: Milliseconds to wait until the append-only files of the server and of
                its replicas have its writes; 0 does not wait.

        Raises:
            UnavailableError: If the server is unavailable, refuses it, or did not confirm its
                writes in time.
        """
        # In one packet and so on one connection: WAITAOF covers the writes of its own.
        wait = [("WAITAOF", 1, self.replicas, aof_timeout_ms)] if aof_timeout_ms else []
        reply, *confirmed = self.execute(script_command(script, keys, *arguments), *wait)
        if confirmed:
            local, copies = map(int, confirmed[0])
            self._check_confirmed(local, copies)
        return reply

    def now_ms(self) -> int:
        """Milliseconds since the epoch by the server's clock, which all processes share."""
        with self.session() as client:
            seconds, micros = client.time()
            return seconds * 1000 + micros // 1000

    def ping(self) -> bool:
        """True once the server replied.

        Raises:
            UnavailableError: If it does not.
        """
        with self.session() as client:
            return bool(client.ping())

    def blocking(self, seconds: float) -> "RedisClient":
        """A client of the same server for commands that block for at most `seconds`."""
        return RedisClient(
            self.url,
            self.timeout,
            self.error_class,
            failure_pause=self.failure_pause,
            replicas=self.replicas,
            block_seconds=seconds,
            tag=self.tag,
            name=self.name,
        )

    def close(self) -> None:
        """Close all connections."""
        self.redis.close()

    def _check_confirmed(self, local: int, copies: int) -> None:
        if local < 1:
            # A server that cannot write, as on a full disk, tells the next write why.
            with self.session() as client:
                client.delete(self.key("unconfirmed"))
            raise self.error_class(f"{self.name} did not write to its append-only file in time")
        if copies < self.replicas:
            self._disconnect_idle()
            raise self.error_class(
                f"{copies} of {self.replicas} replicas of the {self.name} wrote to their "
                "append-only files in time; it is stored, and may be lost with the master"
            )

    def _leave_server(self) -> None:
        if self._owner:
            self._owner.forget()
        self._disconnect_idle()

    def _disconnect_idle(self) -> None:
        # A master that became a replica keeps its clients; only a new connection, by the same name
        # through the sentinels or in the cluster, reaches the current master.
        self.redis.connection_pool.disconnect(inuse_connections=False)


def commit_arguments(
    checks: Sequence[Check], commands: Sequence[Command]
) -> tuple[list[str], list[Word]]:
    """The keys of checks and commands, and their words as `APPLY` takes them."""
    words: list[Word] = [len(checks)]
    for check in checks:
        words += [len(check.command), *check.command, check.expected]
    words.append(len(commands))
    for command in commands:
        words += [len(command), *command]
    return [str(command[1]) for command in [*(c.command for c in checks), *commands]], words


def _read_reply(connection: Any) -> Any:
    """The next reply; a refusal is returned, so that those after it can be read."""
    try:
        return connection.read_response()
    except RedisConnectionError:
        raise
    except ResponseError as refusal:
        return refusal


def _execute(client: Any, *words: Word) -> Any:
    """Send a command that redis-py has no typed method for."""
    return client.execute_command(*words)
