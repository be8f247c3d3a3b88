"""Registrations in a worker: completed in chunks, failed with a reason, or superseded silently."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import pytest

from stitchwork.errors import JobFailedError, QueueUnavailableError
from stitchwork.geometry.classifier import mlp
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import Translator
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.loaded_encoder import LoadedEncoder
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.messages import Job
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.entries import Entry, Outcome
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registry import Registry
from stitchwork.registry.space_checks import SpaceCheckThread
from stitchwork.resources import (
    Arrays,
    BridgeParameters,
    EncoderSpec,
    Floats,
    Registration,
    Space,
    pack_items,
)
from stitchwork.resources.training_inputs import digests_of
from stitchwork.worker import registration
from stitchwork.worker.encoder_check import CHECKED_ANCHORS, EncoderChecker
from stitchwork.worker.encoder_loading import EncoderLoading
from stitchwork.worker.registration import RegistrationRunner
from tests.integration.worker.conftest import DIM, SPEC, TEXTS, TableEncoder, embeddings, loaded

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
        self, load: EncoderLoading, own_registry: Registry = ..., chunk_items: int = ...
    ) -> RegistrationRunner: ...


@pytest.fixture
def runners(
    registry: Registry, queue_server: QueueShard, encoders: EncoderCache
) -> Iterator[Runners]:
    """Makes a runner that gets its encoders from a function."""
    inverses = InverseCache(queue_server, 1)

    def make(
        load: EncoderLoading, own_registry: Registry = registry, chunk_items: int = CHUNK_ITEMS
    ) -> RegistrationRunner:
        return RegistrationRunner(
            own_registry,
            Consumer((queue_server,), "registrations-test", items_per_batch=1),
            Translator(registry, inverses, 1 << 20),
            SpaceCheckThread(registry.space_checks),
            encoders,
            EncoderChecker(registry),
            load,
            items_per_batch=1,
            chunk_items=chunk_items,
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


def load_table(
    rows: Floats, files_digest: str, spec: EncoderSpec, *, prove: bool = False
) -> LoadedEncoder:
    return loaded(TableEncoder(rows), files_digest)


def put(registry: Registry, declaration: SpaceDeclaration = DECLARED) -> Outcome:
    """Register a space; returns the effect."""
    outcome, _ = registry.declare_space(declaration)
    return outcome


def complete(registry: Registry, runner: RegistrationRunner) -> None:
    """Run all steps of the current registration."""
    version = current(registry).version
    job = Job(id="", encoder=SPEC, registration=("space", "x", version))
    for _ in range(len(TEXTS)):
        runner.advance(job)


def ready(registry: Registry) -> Space:
    (record,), _ = registry.spaces.ready("x")
    return record


def put_head(registry: Registry) -> None:
    weight = np.eye(2, embeddings(0).shape[1], dtype=np.float32)
    definition = define_head(mlp(((weight, np.zeros(2, np.float32)),)), ["a", "b"])
    registry.declare_head("h", "x", definition)


def anchors_of(registry: Registry, space: Space) -> Floats:
    return registry.spaces.arrays(space.id, space.version)["anchors"]


def test_the_version_is_of_the_declaration_until_the_files_are_read_and_then_of_both(
    registry: Registry, runners: Runners
) -> None:
    versions = []
    for digest in ("a", "b", "a"):
        runner = runners(partial(load_table, embeddings(0), digest))
        assert put(registry) is Outcome.ACCEPTED
        declared = current(registry).version
        complete(registry, runner)
        record = ready(registry)
        assert (record.declaration, record.files_digest) == (declared, digest)
        assert record.version != declared
        versions.append(record.version)
    assert versions[0] == versions[2] != versions[1]


def test_a_space_declared_again_with_the_same_files_stays_as_it_is(
    registry: Registry, runners: Runners
) -> None:
    table = TableEncoder(embeddings(0))
    encoder = loaded(table, "a")
    runner = runners(lambda spec, prove=False: encoder)
    put(registry)
    complete(registry, runner)
    before, embedded = ready(registry), table.embedded
    assert put(registry) is Outcome.ACCEPTED
    assert ready(registry) == before, "the ready version serves meanwhile"
    runner.advance(Job(id="", encoder=SPEC, registration=("space", "x", current(registry).version)))
    (entry,) = registry.spaces.read("x")
    assert (entry.record, entry.registration) == (before, None)
    assert table.embedded == embedded + CHECKED_ANCHORS


def test_a_space_declared_again_gets_other_rows_though_its_files_are_the_same(
    registry: Registry, runners: Runners
) -> None:
    """As with another version of a library."""
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")))
    first = ready(registry)
    for seed in (1, 0):
        put(registry)
        complete(registry, runners(partial(load_table, embeddings(seed), "a")))
        record = ready(registry)
        np.testing.assert_allclose(anchors_of(registry, record), embeddings(seed), rtol=1e-6)
        assert (record.declaration, record.files_digest) == (first.declaration, "a")
        assert record.version != first.version, "equal versions have equal anchors"


def test_a_space_that_is_deleted_and_declared_again_has_another_version_with_another_library(
    registry: Registry, runners: Runners
) -> None:
    """Which gives other rows of the same files; the last digits alone give no other version."""
    versions = []
    for seed, library, noise in ((0, "1.0", 0.0), (1, "2.0", 0.0), (0, "1.0", 1e-6)):
        rows = (embeddings(seed) + noise).astype(np.float32)
        encoder = loaded(TableEncoder(rows), "a", libraries={"library": library})
        put(registry)
        complete(registry, runners(lambda spec, prove=False, encoder=encoder: encoder))
        versions.append(ready(registry).version)
        registry.spaces.delete("x")
    assert versions[0] == versions[2] != versions[1]


def test_a_fitted_head_that_is_deleted_and_declared_again_follows_the_rows_of_its_inputs(
    registry: Registry, runners: Runners
) -> None:
    put(registry)
    complete(registry, runners(partial(load_table, embeddings(0), "a")))
    versions = []
    for seed in (0, 1, 0):
        rows = embeddings(0) + np.float32(0.02 * seed) * embeddings(1)
        runner = runners(lambda spec, prove=False, rows=rows: loaded(TableEncoder(rows), "a"))
        declared = {"source": "fit", "labels": ["a", "b"]}
        inputs = {**pack_items(TEXTS), "classes": np.array([0, 1, 0, 1, 0])}
        _, entry = registry.begin_head(
            "h", "x", declared, inputs=inputs, encoder=SPEC, total=len(TEXTS)
        )
        assert entry.registration is not None
        job = Job(id="", encoder=SPEC, registration=("head", "h", entry.registration.version))
        for _ in range(STEPS):
            runner.advance(job)
        (head,), _ = registry.heads.ready("h")
        assert head.declaration == entry.registration.version
        expected = np.unique(digests_of(inputs, rows[: len(TEXTS)]))
        assert registry.training_inputs(head).tolist() == expected.tolist()
        versions.append(head.version)
        registry.heads.delete("h")
    assert versions[0] == versions[2] != versions[1]


def test_anchors_that_come_with_an_encoder_are_compared_with_all_of_its_rows(
    registry: Registry, runners: Runners
) -> None:
    rows = embeddings(0)
    table = TableEncoder(rows + np.float32(1e-3))
    loader = Loader(table)
    declaration = replace(DECLARED, anchors=rows)
    assert put(registry, declaration) is Outcome.ACCEPTED
    assert registry.spaces.read("x")[0].record is None
    declared = current(registry).version
    complete(registry, runners(loader))
    record = ready(registry)
    np.testing.assert_array_equal(anchors_of(registry, record), rows)
    assert (record.version, record.declaration, record.dtype) == (declared, None, "float32")
    assert (table.embedded, loader.proofs[0]) == (len(TEXTS), True)
    # The same anchors with other files of the same rows: the version stays, the files are new.
    assert put(registry, declaration) is Outcome.ACCEPTED
    complete(registry, runners(partial(load_table, rows, "b")))
    again = ready(registry)
    assert (again.version, again.files_digest) == (declared, "b")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (embeddings(0)[[1, 0, 2, 3, 4]], "2 of 5 anchors differ from what /no/such/model gives"),
        (embeddings(0, DIM + 1), "expected anchors of 4 numbers, as its encoder gives, got 3"),
    ],
)
def test_anchors_that_are_not_those_of_their_encoder_fail_the_registration_by_name(
    registry: Registry, runners: Runners, rows: Floats, reason: str
) -> None:
    put(registry, replace(DECLARED, anchors=embeddings(0)))
    complete(registry, runners(partial(load_table, rows, "a")))
    (entry,) = registry.spaces.read("x")
    assert entry.record is None
    assert current(registry).status == "failed"
    assert reason in (current(registry).reason or "")


def test_another_space_of_equal_files_with_other_rows_has_another_version(
    registry: Registry, runners: Runners
) -> None:
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")))
    registry.declare_space(replace(DECLARED, id="y"))
    (pending,) = registry.spaces.read("y")
    assert pending.registration is not None
    job = Job(id="", encoder=SPEC, registration=("space", "y", pending.registration.version))
    runner = runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(1)), "a"))
    for _ in range(len(TEXTS)):
        runner.advance(job)
    (other,), _ = registry.spaces.ready("y")
    assert other.declaration == ready(registry).declaration
    assert other.version != ready(registry).version


@pytest.mark.parametrize("distance", [0.0, 0.01, 1.0])
def test_heads_stay_with_new_files_only_if_the_anchors_do(
    registry: Registry, runners: Runners, distance: float
) -> None:
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")))
    before = ready(registry)
    put_head(registry)
    rows = embeddings(0) + np.float32(distance) * embeddings(1)
    assert put(registry) is Outcome.ACCEPTED
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(rows), "b")))
    (entry,) = registry.spaces.read("x")
    if distance < 0.1:
        assert entry.record is not None
        assert (entry.record.files_digest, entry.registration) == ("b", None)
        return
    assert entry.record == before
    assert entry.registration is not None
    assert entry.registration.reason is not None
    assert "1 heads live in space x" in entry.registration.reason
    # What the reason advises: another space, or no heads.
    registry.declare_space(replace(DECLARED, id="y"))
    registry.heads.delete("h")
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(rows), "b")))
    np.testing.assert_allclose(anchors_of(registry, ready(registry)), rows, rtol=1e-6)


def test_files_that_change_between_two_chunks_fail_the_registration_which_can_be_declared_again(
    registry: Registry, runners: Runners
) -> None:
    job = declare(registry)
    runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")).advance(job)
    changed = runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(1)), "b"))
    changed.advance(job)
    assert current(registry).status == "failed"
    assert "expected digest a, got b; register it again" in (current(registry).reason or "")
    assert put(registry) is Outcome.ACCEPTED
    complete(registry, changed)
    np.testing.assert_allclose(anchors_of(registry, ready(registry)), embeddings(1), rtol=1e-6)


def test_chunks_of_a_failed_attempt_are_not_mixed_with_those_of_the_next(
    registry: Registry, runners: Runners
) -> None:
    job = declare(registry)
    first = runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0), TEXTS[:4]), "a"))
    for _ in range(3):
        first.advance(job)
    assert current(registry).status == "failed"
    put(registry)
    complete(
        registry,
        runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(1)), "b"), chunk_items=5),
    )
    np.testing.assert_allclose(anchors_of(registry, ready(registry)), embeddings(1), rtol=1e-6)


def test_an_encoder_that_no_longer_loads_as_before_is_declared_anew(
    registry: Registry, runners: Runners
) -> None:
    """What was in force with the earlier files may not fit the new ones."""
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")))
    fails = [True]

    def load(spec: EncoderSpec, *, prove: bool = False) -> LoadedEncoder:
        if fails.pop():
            fails.append(False)
            raise JobFailedError("modules: expected others")
        fails.append(False)
        return loaded(TableEncoder(embeddings(1)), "b")

    put(registry)
    complete(registry, runners(load))
    assert ready(registry).files_digest == "b"


def test_a_head_is_not_fitted_on_embeddings_of_other_files_than_those_of_its_space(
    registry: Registry, runners: Runners
) -> None:
    put(registry)
    complete(registry, runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a")))
    inputs = {**pack_items(TEXTS), "classes": np.array([0, 1, 0, 1, 0])}
    declared = {"source": "fit", "labels": ["a", "b"]}
    registry.begin_head("h", "x", declared, inputs=inputs, encoder=SPEC, total=len(TEXTS))
    (entry,) = registry.heads.read("h")
    assert entry.registration is not None
    job = Job(id="", encoder=SPEC, registration=("head", "h", entry.registration.version))
    runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "b")).advance(job)
    (entry,) = registry.heads.read("h")
    assert entry.registration is not None
    assert "expected files of digest a, got b" in (entry.registration.reason or "")
    assert put_again(registry, inputs, declared) is Outcome.ACCEPTED
    right = runners(lambda spec, prove=False: loaded(TableEncoder(embeddings(0)), "a"))
    for _ in range(4):
        right.advance(job)
    (head,), _ = registry.heads.ready("h")
    assert head.train_rows == len(TEXTS)


def put_again(registry: Registry, inputs: Arrays, declared: dict[str, Any]) -> Outcome:
    outcome, _ = registry.begin_head(
        "h", "x", declared, inputs=inputs, encoder=SPEC, total=len(TEXTS)
    )
    return outcome
