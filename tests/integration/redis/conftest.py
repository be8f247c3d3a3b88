"""Servers of both makes on loopback ports, which a test may combine, and certificates for them."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from tests.support import machine
from tests.support.servers import ServerBinary
from tests.support.waiting import wait_until

SECRET = "s3cret"  # noqa: S105
AOF = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
LOCKED = ("--requirepass", SECRET, "--masterauth", SECRET)
PATIENCE = 60.0
PROMPT = ("--repl-diskless-sync-delay", "0")


class Node:
    """One process on a loopback port of its own, plain or TLS."""

    def __init__(
        self,
        binary: ServerBinary,
        folder: Path,
        *flags: str,
        tls: tuple[str, ...] = (),
        conf: str = "",
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port: int = free.getsockname()[1]
        self.tls = tls
        self._binary = binary
        self._password = SECRET if SECRET in flags else None
        self._log = folder / f"{self.port}.log"
        ports = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        home = folder / str(self.port)
        home.mkdir()
        head: list[str] = []
        if conf:
            (home / "sentinel.conf").write_text(conf)
            head += [str(home / "sentinel.conf"), "--sentinel"]
        self._command = [*head, "--dir", str(home), *ports, *tls, *flags]
        if not conf:
            self._command += PROMPT

    def begin(self) -> None:
        with self._log.open("wb") as log:
            self.process = self._binary.popen(*self._command, log=log.fileno())
        wait_until("it answers", lambda: self.process.poll() is not None or self._is_up(), PATIENCE)
        if self.process.returncode is not None:
            output = self._log.read_text()
            if self.tls and not self._binary.has_tls:
                pytest.skip(f"{self._binary.name} is built without TLS")
            raise AssertionError(output)

    def _is_up(self) -> bool:
        output = self._log.read_text()
        return "eady to accept connections" in output or "Sentinel ID is" in output

    def ask(self, *words: str) -> object:
        """The answer to one command, over a connection of its own."""
        certificates = dict(zip(self.tls[::2], self.tls[1::2], strict=True))
        with redis.Redis(
            host="127.0.0.1",
            port=self.port,
            password=self._password,
            ssl=bool(self.tls),
            ssl_ca_certs=certificates.get("--tls-ca-cert-file"),
            ssl_certfile=certificates.get("--tls-cert-file"),
            ssl_keyfile=certificates.get("--tls-key-file"),
            socket_timeout=10,
        ) as client:
            return client.execute_command(*words)

    def settle(self) -> None:
        """Wait until a replica follows; its append-only file is written anew at first."""
        with redis.Redis(port=self.port, password=self._password) as client:
            client.set("settled", "yes")
            waits = ("WAITAOF", "0") if knows_waitaof(self) else ("WAIT",)
            result = client.execute_command(*waits, "1", "10000")
        assert result in ([0, 1], [1, 1], 1)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(machine.deadline(10))


@contextmanager
def behind_tls(server: Node, certificates: Path) -> Iterator[int]:
    """The port of a proxy that speaks TLS, and wants certificates, for a server that does not."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
        sink.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

    async def serve() -> None:
        front = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
        port.set_result(front.sockets[0].getsockname()[1])
        await stop.wait()
        front.close()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(serve())

    port: Future[int] = Future()
    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield port.result(machine.deadline(10))
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(machine.deadline(10))


Start = Callable[..., Node]


@pytest.fixture
def start(tmp_path: Path, server_binary: ServerBinary) -> Iterator[Start]:
    """Starts servers that end with the test."""
    nodes: list[Node] = []

    def begin(*flags: str, tls: tuple[str, ...] = (), conf: str = "") -> Node:
        nodes.append(Node(server_binary, tmp_path, *flags, tls=tls, conf=conf))
        nodes[-1].begin()
        return nodes[-1]

    yield begin
    for node in nodes:
        node.stop()


def tls_flags(folder: Path, clients: str = "yes") -> tuple[str, ...]:
    return (
        *("--tls-cert-file", f"{folder}/server.pem", "--tls-key-file", f"{folder}/server.key"),
        *("--tls-ca-cert-file", f"{folder}/ca.pem", "--tls-auth-clients", clients),
        *("--tls-replication", "yes"),
    )


def knows_waitaof(node: Node) -> bool:
    return "waitaof" in str(node.ask("COMMAND LIST")).lower()
