"""Preparing what was registered: whoever was overtaken stays silent, and goes on with the rest."""

from dataclasses import replace

import pytest

from stitchwork.errors import JobFailedError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import Translator
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.messages import Job
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import BridgeParameters, EncoderSpec, TextEncoder
from stitchwork.worker.registration import RegistrationRunner

SPEC = TextEncoder(model="/not/there")


@pytest.mark.parametrize("failure", [JobFailedError("no such model"), ValueError("unforeseen")])
def test_a_draft_that_is_declared_anew_while_it_fails_ends_nothing(
    registry_server: RedisClient, queue_server: RedisClient, failure: Exception
) -> None:
    registry = Registry(registry_server, durable=False, stale_seconds=0.0)
    registry.declare_anchor_set("S", "text", items=["a", "b", "c"])
    declared = SpaceDeclaration("x", "S", SPEC, None, None, BridgeParameters())
    registry.declare_space(declared)
    registration = registry.spaces.read("x")[0].registration
    assert registration is not None
    again = replace(declared, parameters=BridgeParameters(omega=4))

    def overtaken(spec: EncoderSpec) -> LoadedEncoder:
        registry.declare_space(again)
        raise failure

    consumer = Consumer(queue_server, "upkeep-test", items_per_batch=1)
    inverses = InverseCache(queue_server, 1)
    translator = Translator(registry, inverses, 1 << 20)
    upkeep = RegistrationRunner(
        registry,
        consumer,
        translator,
        EncoderCache("cpu", (), offline=True),
        overtaken,
        items_per_batch=1,
        chunk_items=8,
    )
    upkeep.advance(Job(id="", encoder=SPEC, registration=("space", "x", registration.version)))
    stands = registry.spaces.read("x")[0].registration
    assert stands is not None
    assert (stands.status, stands.version != registration.version) == ("pending", True)
    inverses.close()
