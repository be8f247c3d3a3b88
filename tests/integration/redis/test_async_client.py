"""The client of an event loop: one connection for all callers, on real servers."""

import asyncio
import gc
import signal
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from redis.asyncio.connection import UnixDomainSocketConnection

from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.redis import PREFIX
from stitchwork.redis.async_client import AsyncRedisClient
from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import script_command
from stitchwork.redis.multiplexed_connection import take_writer
from tests.integration.redis.conftest import AOF, LOCKED, SECRET, Start, tls_flags
from tests.integration.redis.test_topologies import Watched, of_client, watch, watched
from tests.support import machine
from tests.support.proxy import Proxy
from tests.support.servers import QUEUE_FLAGS, ServerBinary, ServerProcess

__all__ = ["watched"]

INCREMENT = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
PATIENCE = 30.0
LARGE_BYTES = 64_000_000


@asynccontextmanager
async def connected(
    url: str, *, seconds: float = 5.0, **options: Any
) -> AsyncIterator[AsyncRedisClient]:
    options.setdefault("failure_pause", 0.0)
    client = AsyncRedisClient(url, seconds, QueueUnavailableError, **options)
    yield client
    await client.close()


@asynccontextmanager
async def paused(process: ServerProcess) -> AsyncIterator[AsyncRedisClient]:
    """A connected client whose server reads nothing more; it goes on at the end."""
    try:
        async with connected(process.url, seconds=machine.deadline(PATIENCE)) as client:
            await client.ping()
            process.pause()
            yield client
    finally:
        process.resume()


@contextmanager
def recorded(server: ServerProcess) -> Iterator[Proxy]:
    """A proxy that records what clients send."""
    with TemporaryDirectory(prefix="sw") as folder:
        proxy = Proxy(Path(folder) / "p.sock", server.path)
        yield proxy
        proxy.close()


async def once_available(client: AsyncRedisClient, command: tuple[str, ...]) -> list[Any]:
    """The first reply to a command that is sent again while the server is unavailable."""
    while True:
        try:
            return await client.send(command)
        except QueueUnavailableError:
            await asyncio.sleep(0.05)


def packets(proxy: Proxy) -> list[bytes]:
    return [chunk.data for chunk in proxy.chunks if chunk.to_server]


def test_calls_of_one_turn_share_a_packet_and_get_their_own_replies(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with connected(proxy.url) as client:
            await client.ping()
            proxy.chunks.clear()
            words = [str(i) for i in range(64)]
            replies = await asyncio.gather(*(client.execute(("ECHO", word)) for word in words))
            assert replies == [[word.encode()] for word in words]
            (packet,) = packets(proxy)
            assert packet.count(b"ECHO") == 64

    with recorded(queue_process) as proxy:
        asyncio.run(main())


def test_script_is_sent_by_its_hash_and_again_by_its_text_after_a_flush(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with connected(proxy.url) as client:
            queue_server.redis.script_flush()
            assert await client.run_script(INCREMENT, ("n",), 2) == 2
            proxy.chunks.clear()
            assert await client.run_script(INCREMENT, ("n",), 2) == 4
            assert INCREMENT.encode() not in b"".join(packets(proxy))
            queue_server.redis.script_flush()
            call = script_command(INCREMENT, ("n",), 1)
            replies = await client.execute(call, ("GET", "n"), call)
            # The commands between are answered meanwhile, and no script runs twice.
            assert (sorted((replies[0], replies[2])), int(replies[1])) == ([5, 6], 4)

    with recorded(queue_process) as proxy:
        asyncio.run(main())


def test_discarded_call_frees_what_a_paused_server_does_not_read_and_others_are_answered(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with paused(queue_process) as client:
            value, gone = memoryview(bytes(LARGE_BYTES)), asyncio.Event()
            reference = weakref.ref(value, lambda _: gone.set())
            large, neighbour = client.send(("SET", "large", value)), client.send(("ECHO", "a"))
            del value
            # It is on its way in the next turn.
            for _ in range(3):
                await asyncio.sleep(0)
            assert reference() is not None
            client.discard(large)
            del large
            await asyncio.wait_for(gone.wait(), machine.deadline(PATIENCE))
            queue_process.resume()
            assert await neighbour == [b"a"]
            assert not queue_server.redis.exists("large")

    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_discarded_call_that_is_written_is_answered_and_nothing_runs_again(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    """A server that has the call may execute it, and calls before it."""

    async def main() -> None:
        async with paused(queue_process) as client:
            neighbour = client.send(("INCR", "runs"))
            written = client.send(("ECHO", "written"))
            for _ in range(3):
                await asyncio.sleep(0)
            client.discard(written)
            queue_process.resume()
            assert await written == [b"written"]
            assert await neighbour == [1]
            assert await client.send(("GET", "runs")) == [b"1"]

    asyncio.run(main())


def test_calls_after_a_discarded_one_fail_when_the_client_is_closed(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with paused(queue_process) as client:
            large = client.send(("SET", "large", memoryview(bytes(LARGE_BYTES))))
            after = client.send(("ECHO", "after"))
            for _ in range(3):
                await asyncio.sleep(0)
            client.discard(large)
            await client.close()
            with pytest.raises(QueueUnavailableError):
                await asyncio.wait_for(after, machine.deadline(PATIENCE))

    asyncio.run(main())


def test_refusal_is_raised_in_the_words_of_the_server_and_harms_no_other_call(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with connected(queue_process.url) as client:
            refused = client.send(("SET", "k", "text"), ("LPUSH", "k", "v"), ("GET", "k"))
            unknown = client.send(("NOSUCHCOMMAND", SECRET))
            neighbour = client.send(("GET", "k"))
            with pytest.raises(
                QueueUnavailableError, match=r"queue server refused .*wrong kind of value"
            ):
                await refused
            with pytest.raises(QueueUnavailableError, match="unknown command") as error:
                await unknown
            assert SECRET not in error.value.message
            assert await neighbour == [b"text"]
            first, second = await client.send(
                ("LPUSH", "k", "v"), ("GET", "k"), returns_errors=True
            )
            assert "wrong kind" in str(first)
            assert second == b"text"

    asyncio.run(main())


def test_cancelled_call_sends_nothing_in_its_turn_and_disturbs_no_other(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with connected(queue_process.url) as client:
            await client.ping()
            sent, other = client.send(("INCR", "n")), client.send(("ECHO", "other"))
            await asyncio.sleep(0)  # the turn in which it is written
            sent.cancel()
            unsent = client.send(("INCR", "n"))
            unsent.cancel()
            assert await other == [b"other"]
            assert await client.send(("GET", "n")) == [b"1"]

    asyncio.run(main())


def test_blocking_client_delays_no_other(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        async with connected(queue_process.url, seconds=0.5) as client:
            blocking = client.blocking(30.0)
            popped = blocking.send(("BLPOP", "list", 30))
            for _ in range(3):
                await client.ping()
            assert not popped.done()
            await client.execute(("RPUSH", "list", "item"))
            assert await popped == [[b"list", b"item"]]
            await blocking.close()

    asyncio.run(main())


def test_silent_server_costs_one_timeout_and_its_late_replies_are_not_read(
    server_binary: ServerBinary,
) -> None:
    async def main(server: ServerProcess) -> None:
        loop = asyncio.get_running_loop()
        async with connected(server.url, seconds=0.3, failure_pause=1.0) as client:
            await once_available(client, ("PING",))
            server.pause()
            start = loop.time()
            replies = await asyncio.gather(
                *(client.send(("ECHO", "late")) for _ in range(9)), return_exceptions=True
            )
            assert all(isinstance(reply, QueueUnavailableError) for reply in replies)
            assert loop.time() - start < machine.deadline(2.0)
            with pytest.raises(QueueUnavailableError, match="a moment ago"):
                await client.ping()
            server.resume()
            echo = once_available(client, ("ECHO", "new"))
            assert await asyncio.wait_for(echo, machine.deadline(30)) == [b"new"]

    with TemporaryDirectory(prefix="sw") as folder:
        server = ServerProcess(Path(folder), QUEUE_FLAGS, server_binary)
        try:
            asyncio.run(main(server))
        finally:
            server.resume()
            server.stop()


def test_calls_are_resent_once_over_a_new_connection(queue_process: ServerProcess) -> None:
    async def main() -> None:
        async with connected(queue_process.url) as client, connected(queue_process.url) as other:
            (number,) = await client.execute(("CLIENT", "ID"))
            popped = client.send(("BLPOP", "later", 5), ("ECHO", "x"))
            await other.execute(("CLIENT", "KILL", "ID", number))
            await other.execute(("RPUSH", "later", "item"))
            assert await popped == [[b"later", b"item"], b"x"]
            popped = client.send(("BLPOP", "never", 5))
            for _ in range(2):
                ids = await other.execute(("CLIENT", "LIST"))
                blocked = [line for line in ids[0].split(b"\n") if b"cmd=blpop" in line]
                assert len(blocked) == 1
                await other.execute(("CLIENT", "KILL", "ID", blocked[0].split()[0][3:]))
                await asyncio.sleep(0.1)
            with pytest.raises(QueueUnavailableError, match="cannot be reached or does not answer"):
                await popped
            assert await client.ping()

    asyncio.run(main())


def test_server_that_stops_and_starts_again_is_reconnected(server_binary: ServerBinary) -> None:
    async def main(server: ServerProcess) -> None:
        async with connected(server.url) as client:
            await client.ping()
            await asyncio.to_thread(server.stop, kill=True)
            with pytest.raises(QueueUnavailableError, match="cannot be reached"):
                await client.ping()
            await asyncio.to_thread(server.start)
            assert await client.run_script(INCREMENT, ("n",), 3) == 3

    with TemporaryDirectory(prefix="sw") as folder:
        server = ServerProcess(Path(folder), QUEUE_FLAGS, server_binary)
        asyncio.run(main(server))
        server.stop()


def test_closed_client_fails_its_calls(queue_process: ServerProcess) -> None:
    async def main() -> None:
        async with connected(queue_process.url) as client:
            await client.ping()
            waiting = client.send(("BLPOP", "never", 5))
            await asyncio.sleep(0)
        with pytest.raises(QueueUnavailableError):
            await asyncio.wait_for(waiting, PATIENCE)
        with pytest.raises(QueueUnavailableError, match="no longer used"):
            await client.ping()

    asyncio.run(main())


def test_messages_of_channels_come_again_after_a_reconnection(
    queue_server: RedisClient, queue_process: ServerProcess
) -> None:
    async def main() -> None:
        messages: asyncio.Queue[list[Any]] = asyncio.Queue()
        events: list[str] = []
        client = AsyncRedisClient(
            queue_process.url,
            5.0,
            QueueUnavailableError,
            failure_pause=0.05,
            channels=("news",),
            on_push=messages.put_nowait,
            on_connect=lambda: events.append("up"),
            on_disconnect=lambda: events.append("down"),
        )
        client.connect()
        for text in ("one", "two"):
            confirmed = await asyncio.wait_for(messages.get(), PATIENCE)
            assert confirmed == [b"subscribe", b"news", 1]
            (number,), _ = await asyncio.gather(
                client.execute(("CLIENT", "ID")),
                asyncio.to_thread(queue_server.redis.publish, "news", text),
            )
            assert await asyncio.wait_for(messages.get(), PATIENCE) == [
                b"message",
                b"news",
                text.encode(),
            ]
            await asyncio.to_thread(queue_server.redis.client_kill_filter, _id=number)
        assert await asyncio.wait_for(messages.get(), PATIENCE) == [b"subscribe", b"news", 1]
        assert events == ["up", "down", "up", "down", "up"]
        await client.close()

    asyncio.run(main())


def test_password_and_database_of_the_url_are_used(start: Start) -> None:
    node = start(*LOCKED)

    async def main() -> None:
        async with connected(f"redis://:{SECRET}@127.0.0.1:{node.port}/3") as client:
            await client.execute(("SET", PREFIX + "k", "v"))
            (info,) = await client.execute(("CLIENT", "INFO"))
            assert b" db=3 " in info
        async with connected(f"redis://:wrong-{SECRET}@127.0.0.1:{node.port}/0") as stranger:
            with pytest.raises(
                QueueUnavailableError, match="refused the user name or the password"
            ) as error:
                await stranger.ping()
            assert SECRET not in str(error.value)
        async with connected("redis://127.0.0.1:1") as nobody:
            with pytest.raises(QueueUnavailableError, match="cannot be reached or does not answer"):
                await nobody.ping()

    asyncio.run(main())


def test_tls_with_client_certificates_works(start: Start, certificates: Path) -> None:
    node = start(*AOF, tls=tls_flags(certificates))
    place = f"rediss://127.0.0.1:{node.port}/0"
    trusted = f"ssl_ca_certs={certificates}/ca.pem"

    async def main() -> None:
        async with connected(f"{place}?{trusted}&{of_client(certificates)}") as client:
            big = "x" * 1_000_000
            assert await client.execute(("SET", "k", big), ("STRLEN", "k")) == [b"OK", len(big)]
            assert await client.execute(("GET", "k")) == [big.encode()]
        for options, message in (
            (f"ssl_ca_certs={certificates}/other.pem", "certificate that is not trusted"),
            (trusted, "check the certificates|wants a client's certificate"),
            ("ssl_ca_certs=/nowhere.pem", "file cannot be read"),
        ):
            async with connected(f"{place}?{options}") as stranger:
                with pytest.raises(QueueUnavailableError, match=message):
                    await stranger.ping()

    asyncio.run(main())


@pytest.mark.parametrize("sentinel", [False, True])
def test_demoted_master_is_left_for_the_new_one(start: Start, sentinel: bool) -> None:
    node, other = start(), start()
    url = f"redis://127.0.0.1:{node.port}"
    if sentinel:
        url = f"sentinel://127.0.0.1:{start(conf=watch(node)).port}/main"

    async def main() -> None:
        async with connected(url) as client:
            await client.execute(("SET", "k", "v"))
            await asyncio.to_thread(node.ask, "REPLICAOF", "127.0.0.1", str(other.port))
            with pytest.raises(QueueUnavailableError, match="has become a read-only replica"):
                await client.execute(("SET", "k", "w"))
            await asyncio.to_thread(node.ask, "REPLICAOF", "NO", "ONE")
            assert await client.execute(("SET", "k", "w")) == [b"OK"]

    asyncio.run(main())


def test_lost_master_is_replaced_by_its_replica(watched: Watched) -> None:
    async def main() -> None:
        client = AsyncRedisClient(watched.url, 0.5, RegistryUnavailableError, failure_pause=0.0)
        await client.execute(("SET", PREFIX + "k", "before"))
        await asyncio.to_thread(watched.master.ask, "WAIT", "1", "5000")
        watched.master.process.send_signal(signal.SIGSTOP)
        failures: list[str] = []
        async with asyncio.timeout(machine.deadline(60.0)):
            while True:
                try:
                    await client.execute(("SET", PREFIX + "k", "after"))
                    break
                except RegistryUnavailableError as error:
                    failures.append(error.message)
        assert failures, "the first call after its end cannot have gone well"
        assert not any(SECRET in failure for failure in failures)
        (info,) = await client.execute(("INFO", "server"))
        assert f"tcp_port:{watched.replica.port}".encode() in info
        await client.close()

    asyncio.run(main())


def test_stream_is_taken_out_of_a_connection_of_redis_py(queue_process: ServerProcess) -> None:
    async def main() -> None:
        connection = UnixDomainSocketConnection(path=str(queue_process.path), protocol=3)
        with pytest.raises(ValueError, match="expected an open connection"):
            take_writer(connection)
        await connection.connect()  # type: ignore[no-untyped-call]
        writer = take_writer(connection)
        assert not connection.is_connected
        assert not writer.transport.is_closing()
        writer.transport.abort()

    asyncio.run(main())
