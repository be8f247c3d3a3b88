"""Encoders are named by the models of the spaces that have them."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stitchwork.api.encoder_names import EncoderNames
from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import TextEncoder, encoder_key
from tests.support import machine
from tests.support.servers import REGISTRY_FLAGS, ServerProcess
from tests.support.waiting import result_of, wait_until


@pytest.fixture
def process() -> Iterator[ServerProcess]:
    """A registry server of the test."""
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), REGISTRY_FLAGS)
        yield process
        process.stop()


def test_encoder_has_the_name_of_its_model_from_its_registration_on(
    registry_server: RedisClient,
) -> None:
    registry = Registry(registry_server, durable=False, stale_seconds=60)
    names, encoder = EncoderNames(registry.spaces), TextEncoder(model="words")
    assert names.find([]) == {}
    registry.declare_anchor_set("S", "text", items=["a", "b", "c"])
    registry.declare_space(SpaceDeclaration("x", "S", encoder=encoder))
    key = encoder_key(encoder)
    assert names.find([key, "unknown"]) == {key: "words"}
    # Known names are not read again.
    registry.spaces.delete("x")
    assert names.find([key]) == {key: "words"}


def test_search_in_a_registry_that_hangs_delays_one_caller_only(process: ServerProcess) -> None:
    server = RedisClient(process.url, machine.deadline(60), RegistryUnavailableError)
    names = EncoderNames(Registry(server, durable=False, stale_seconds=60).spaces)
    with ThreadPoolExecutor(1) as pool:
        process.pause()
        try:
            search = pool.submit(names.find, ["unknown"])
            wait_until("the search has begun", names._lock.locked)
            assert names.find(["unknown"]) == {}
            assert not search.done()
        finally:
            process.resume()
        assert result_of(search) == {}
    server.close()


def test_search_that_failed_is_not_repeated_at_once(process: ServerProcess) -> None:
    server = RedisClient(process.url, machine.deadline(60), RegistryUnavailableError)
    names = EncoderNames(Registry(server, durable=False, stale_seconds=60).spaces)
    process.stop()
    try:
        with pytest.raises(RegistryUnavailableError):
            names.find(["unknown"])
        assert names.find(["unknown"]) == {}
    finally:
        process.start()
    server.close()
