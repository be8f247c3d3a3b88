"""Registrations in a worker: completed in chunks, failed with a reason, or superseded silently."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

import numpy as np
import pytest

from stitchwork.errors import JobFailedError, QueueUnavailableError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import Translator
from stitchwork.models.encoder_cache import EncoderCache, LoadedEncoder
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.messages import Job
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.entries import Entry, Outcome
from stitchwork.registry.registry import Registry
from stitchwork.registry.space_checks import SpaceCheckThread
from stitchwork.resources import BridgeParameters, EncoderSpec, Registration, Space
from stitchwork.worker import registration
from stitchwork.worker.encoder_check import EncoderChecker
from stitchwork.worker.registration import EncoderLoading, RegistrationRunner
from tests.integration.worker.conftest import SPEC, TEXTS, TableEncoder, embeddings, loaded

DECLARED = SpaceDeclaration("x", "S", SPEC, None, None, BridgeParameters())
NEWER = replace(DECLARED, parameters=BridgeParameters(omega=4))
CHUNK_ITEMS = 2
STEPS = 4
"""Steps of a registration of five texts: three chunks, and its completion."""


class Loader:
    """Loads one encoder, and records whether it had to be compared with its library."""

    def __init__(self, encoder: TableEncoder) -> None:
        self._encoder = encoder
        self.proofs: list[bool] = []

    def __call__(self, spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        self.proofs.append(prove)
        return loaded(self._encoder)


class Runners(Protocol):
    """Makes a runner that gets its encoders from a function."""

    def __call__(
        self, load: EncoderLoading, own_registry: Registry = ...
    ) -> RegistrationRunner: ...


@pytest.fixture
def runners(
    registry: Registry, queue_server: RedisClient, encoders: EncoderCache
) -> Iterator[Runners]:
    """Makes a runner that gets its encoders from a function."""
    inverses = InverseCache(queue_server, 1)

    def make(load: EncoderLoading, own_registry: Registry = registry) -> RegistrationRunner:
        return RegistrationRunner(
            own_registry,
            Consumer(queue_server, "registrations-test", items_per_batch=1),
            Translator(registry, inverses, 1 << 20),
            SpaceCheckThread(registry.space_checks),
            encoders,
            EncoderChecker(registry),
            load,
            items_per_batch=1,
            chunk_items=CHUNK_ITEMS,
        )

    yield make
    inverses.close()


def declare(registry: Registry, declaration: SpaceDeclaration = DECLARED) -> Job:
    """Register a space, and return the job of its registration."""
    registry.declare_space(declaration)
    version = current(registry).version
    return Job(id="", encoder=SPEC, registration=("space", "x", version))


def current(registry: Registry) -> Registration:
    """The current registration of the space."""
    stored = registry.spaces.read("x")[0].registration
    assert stored is not None
    return stored


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == registration.__name__]


def test_a_registration_is_embedded_in_chunks_and_completed(
    registry: Registry, runners: Runners, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = embeddings(0)
    runner = runners(Loader(TableEncoder(rows)))
    job = declare(registry)
    done = []
    for _ in range(3):
        runner.advance(job)
        done.append(current(registry).done)
    assert done == [2, 4, 5]
    assert registry.spaces.read("x")[0].record is None
    runner.advance(job)
    (entry,) = registry.spaces.read("x")
    assert entry.registration is None
    assert entry.record is not None
    anchors = registry.spaces.arrays("x", entry.record.version)["anchors"]
    np.testing.assert_allclose(anchors, rows, rtol=1e-6)
    assert events(caplog) == ["registration completed"]


def test_an_encoder_is_compared_with_its_library_before_the_first_chunk_of_a_space(
    registry: Registry, runners: Runners
) -> None:
    loader = Loader(TableEncoder(embeddings(0)))
    runner, job = runners(loader), declare(registry)
    for _ in range(STEPS):
        runner.advance(job)
    assert loader.proofs == [True, False, False]


@pytest.mark.parametrize(("unit", "expected"), [(None, True), (False, False)])
def test_space_of_an_encoder_with_unit_rows_is_unit_unless_declared_otherwise(
    registry: Registry, runners: Runners, unit: bool | None, expected: bool
) -> None:
    rows = embeddings(0) / np.linalg.norm(embeddings(0), axis=1, keepdims=True)
    runner = runners(Loader(TableEncoder(rows)))
    job = declare(registry, replace(DECLARED, unit=unit))
    for _ in range(STEPS):
        runner.advance(job)
    (record,), _ = registry.spaces.ready("x")
    assert record.unit is expected


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (JobFailedError("no such model"), "no such model"),
        (ValueError("secret"), "the worker failed at it: ValueError"),
    ],
)
def test_a_failed_registration_has_its_reason(
    registry: Registry, runners: Runners, failure: Exception, reason: str
) -> None:
    def load(spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        raise failure

    runners(load).advance(declare(registry))
    assert (current(registry).status, current(registry).reason) == ("failed", reason)


def test_a_failed_item_is_named_by_its_index_in_the_whole_set(
    registry: Registry, runners: Runners, caplog: pytest.LogCaptureFixture
) -> None:
    runner = runners(Loader(TableEncoder(embeddings(0), TEXTS[:3])))
    job = declare(registry)
    runner.advance(job)
    assert current(registry).status == "pending"
    runner.advance(job)
    assert current(registry).status == "failed"
    assert current(registry).reason == "item 3: unknown text"
    assert events(caplog) == ["registration failed"]


def test_a_dead_lettered_registration_has_failed(registry: Registry, runners: Runners) -> None:
    runner = runners(Loader(TableEncoder(embeddings(0))))
    job = declare(registry)
    runner.handle_dead_letter(Job(id="", encoder=SPEC))
    assert current(registry).status == "pending", "other jobs do not concern it"
    runner.handle_dead_letter(job)
    assert current(registry).status == "failed"
    assert current(registry).reason == "the worker crashed or hung at every attempt"


def test_an_outage_leaves_a_registration_pending(registry: Registry, runners: Runners) -> None:
    def load(spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        raise QueueUnavailableError("no answer")

    runner, job = runners(load), declare(registry)
    with pytest.raises(QueueUnavailableError, match="no answer"):
        runner.advance(job)
    assert (current(registry).status, current(registry).done) == ("pending", 0)


@pytest.mark.parametrize(
    "failure", [None, JobFailedError("no such model"), ValueError("unexpected")]
)
def test_a_registration_superseded_while_it_embeds_changes_nothing(
    registry: Registry, runners: Runners, failure: Exception | None
) -> None:
    job = declare(registry)
    old = current(registry).version

    def load(spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        registry.declare_space(NEWER)
        if failure:
            raise failure
        return loaded(TableEncoder(embeddings(0)))

    runners(load).advance(job)
    assert (current(registry).status, current(registry).done) == ("pending", 0)
    assert current(registry).version != old


class RacingRegistry(Registry):
    """A registry in which another client replaces the space just before it is completed."""

    def complete_space(self, registration: Registration) -> tuple[Outcome, Entry[Space]]:
        self.declare_space(NEWER)
        return super().complete_space(registration)


def test_a_registration_superseded_before_completion_changes_nothing(
    registry_server: RedisClient,
    registry: Registry,
    runners: Runners,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    job = declare(registry)
    old = current(registry).version
    racing = RacingRegistry(registry_server, durable=False, stale_seconds=0.0)
    runner = runners(Loader(TableEncoder(embeddings(0))), racing)
    for _ in range(4):
        runner.advance(job)
    (entry,) = registry.spaces.read("x")
    assert entry.record is None
    assert (current(registry).status, current(registry).version != old) == ("pending", True)
    assert events(caplog) == ["registration superseded"]


def test_a_job_of_an_older_registration_is_ignored(
    registry: Registry, runners: Runners, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    encoder = TableEncoder(embeddings(0))
    older = declare(registry)
    declare(registry, NEWER)
    runners(Loader(encoder)).advance(older)
    assert (current(registry).done, encoder.embedded, events(caplog)) == (0, 0, [])
