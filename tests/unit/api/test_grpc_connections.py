"""The connections of the gRPC server are watched also after descriptors ran out."""

import asyncio
import logging
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stitchwork.api.grpc_connections import GrpcConnections
from tests.support import machine


@contextmanager
def no_descriptors() -> Iterator[None]:
    """A context in which this process can open nothing."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    # Descriptors above the limit stay open; there is none free below.
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_watch_goes_on_after_descriptors_ran_out(caplog: pytest.LogCaptureFixture) -> None:
    checks = 0

    class Connections(GrpcConnections):
        def check(self) -> int:
            nonlocal checks
            checks += 1
            return super().check()

    async def checked_again() -> None:
        before = checks
        while checks == before:  # noqa: ASYNC110 what is waited for happens in a thread
            await asyncio.sleep(0.01)

    async def failed() -> None:
        while not caplog.records:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def scenario() -> None:
        # A limit that the descriptors of any process exceed, of none of which it is the server.
        connections = Connections(port=1, limit=1)
        connections.task.start()
        async with asyncio.timeout(machine.deadline(60)):
            await checked_again()
            with no_descriptors():
                await failed()
            await checked_again()
        assert not connections.task.is_stalled
        await connections.task.stop()

    with caplog.at_level(logging.ERROR):
        asyncio.run(scenario())
    record = caplog.records[0]
    assert record.getMessage() == "background task failed"
    assert record.__dict__["task"] == "grpc-connections"
    assert record.exc_info is not None
    assert "Too many open files" in str(record.exc_info[1])
