"""Records of earlier releases are read; those of later releases are refused and set aside."""

from typing import Any

import orjson
import pytest

from stitchwork.errors import (
    IncompatibleFormatError,
    ResourceInUseError,
    UnknownResourceError,
    VersionMismatchError,
)
from stitchwork.geometry.calibration import Calibration
from stitchwork.geometry.classifier import mlp
from stitchwork.redis.client import RedisClient
from stitchwork.registry import api_keys
from stitchwork.registry.api_key_cache import ApiKeyCache
from stitchwork.registry.api_keys import ApiKeyRepository
from stitchwork.registry.changes import REPLACED_SECONDS
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.entries import Condition
from stitchwork.registry.head_records import define_head
from stitchwork.registry.registry import Registry
from stitchwork.registry.stored_records import FORMAT, dump_record, load_record
from stitchwork.resources import AnchorSet, Head, LinearLayer, Scope, Space
from tests.conftest import Pair

LATER = b'{"format":%d,"shape":"unheard of"}' % (FORMAT + 1)
MALFORMED = b'{"id":"x"'
SET = AnchorSet(id="s", version="v", modality="vector", size=2)


@pytest.fixture
def registry(registry_server: RedisClient) -> Registry:
    return Registry(registry_server, durable=False, stale_seconds=60)


def declare(registry: Registry, pair: Pair, id_: str) -> Space:
    anchors = pair.y_anchors if id_ == "y" else pair.x_anchors
    _, entry = registry.declare_space(SpaceDeclaration(id_, "S", anchors=anchors))
    assert entry.record is not None
    return entry.record


def overwrite(registry: Registry, key: str, data: bytes, field: str = "record") -> None:
    registry.server.redis.hset(f"stitchwork:{key}", field, data)


def test_record_is_stored_with_the_version_of_its_format() -> None:
    stored = orjson.loads(dump_record(SET))
    assert stored == {"format": FORMAT, **SET.model_dump(mode="json")}
    assert load_record(AnchorSet, dump_record(SET), "anchor-set s") == SET


def test_record_without_a_format_is_read_as_that_of_the_first_release() -> None:
    assert load_record(AnchorSet, SET.model_dump_json().encode(), "anchor-set s") == SET


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LATER, rf"space x has format {FORMAT + 1} of a later release, .*: run the later release"),
        (MALFORMED, "space x cannot be read by release .*: restore the registry from a backup"),
        (b"[]", "space x cannot be read"),
        (b'{"format":"two"}', "space x cannot be read"),
    ],
)
def test_unreadable_record_is_refused_by_its_id(
    registry: Registry, pair: Pair, data: bytes, message: str
) -> None:
    declare(registry, pair, "x")
    overwrite(registry, "space:x", data)
    for use in (registry.spaces.get, registry.spaces.ready):
        with pytest.raises(IncompatibleFormatError, match=message):
            use("x")
    with pytest.raises(IncompatibleFormatError, match=message):
        declare(registry, pair, "x")
    assert registry.server.redis.hget("stitchwork:space:x", "record") == data, "it is as it was"


def _record_keys(registry: Registry) -> set[bytes]:
    keys = registry.server.redis.scan_iter()
    return {key for key in keys if b":arrays:" not in key and b"versions" not in key}


@pytest.mark.parametrize("data", [LATER, MALFORMED, None])
def test_unreadable_record_is_deleted_with_all_that_is_stored_under_its_id(
    registry: Registry, pair: Pair, data: bytes | None
) -> None:
    server: Any = registry.server.redis
    declare(registry, pair, "y")
    before = _record_keys(registry)
    space = declare(registry, pair, "x")
    if data is None:
        server.delete("stitchwork:space:x")
        server.set("stitchwork:space:x", "not a hash")
        server.set("stitchwork:space:x:dependents", "not a set")
    else:
        overwrite(registry, "space:x", data)
    server.zadd("stitchwork:drafts", {"space:x": 1})
    with pytest.raises(VersionMismatchError, match="space x: version v was expected, version unr"):
        registry.spaces.delete("x", Condition(frozenset(["v"])))
    registry.spaces.delete("x", Condition(frozenset(["*"])))
    with pytest.raises(UnknownResourceError):
        registry.spaces.delete("x")
    assert registry.anchor_sets.dependents("S") == ["space:y"]
    assert registry.spaces.page(10).unreadable == []
    assert 0 < server.ttl(f"stitchwork:space:x:arrays:{space.version}") <= REPLACED_SECONDS
    server.zrem("stitchwork:checks", "x")
    assert _record_keys(registry) == before
    registry.anchor_sets.get("S")
    declare(registry, pair, "x")


def test_unreadable_space_with_a_head_is_not_deleted(registry: Registry, pair: Pair) -> None:
    declare(registry, pair, "x")
    weights = mlp(((pair.x_anchors[:2], pair.x_anchors[:2, 0]),))
    registry.declare_head("h", "x", define_head(weights, ["a", "b"]))
    overwrite(registry, "space:x", LATER)
    with pytest.raises(ResourceInUseError, match="needed by 1 others: head:h"):
        registry.spaces.delete("x")
    overwrite(registry, "head:h", LATER)
    registry.heads.delete("h")
    registry.spaces.delete("x")


def test_unreadable_record_is_left_out_of_pages_and_named(registry: Registry, pair: Pair) -> None:
    for id_ in ("a", "x", "y"):
        declare(registry, pair, id_)
    overwrite(registry, "space:x", LATER)
    page = registry.spaces.page(10)
    assert [entry.id for entry in page.entries] == ["a", "y"]
    assert page.unreadable == ["x"]
    declare(registry, pair, "z")  # compared with the spaces that can be read


def test_unreadable_registration_leaves_the_ready_version_in_use(
    registry: Registry, pair: Pair
) -> None:
    declare(registry, pair, "x")
    overwrite(registry, "space:x", LATER, "draft")
    registry.server.redis.zadd("stitchwork:drafts", {"space:x": 1})
    (space,), stale = registry.spaces.ready("x")
    assert (space.id, stale) == ("x", False)
    assert registry.stalled_registrations(0.0) == []
    assert registry.spaces.page(10).unreadable == ["x"]


def test_unreadable_anchor_set_is_not_created_anew(registry: Registry, pair: Pair) -> None:
    declare(registry, pair, "x")
    overwrite(registry, "anchor-set:S", LATER)
    with pytest.raises(IncompatibleFormatError, match="anchor set S"):
        declare(registry, pair, "y")
    assert registry.server.redis.hget("stitchwork:anchor-set:S", "record") == LATER


def test_unreadable_api_key_is_refused_and_others_are_accepted(registry: Registry) -> None:
    known, record = api_keys.new("known", [Scope.READ])
    registry.keys.add(record)
    overwrite(registry, "keys", LATER, "other")
    assert [key.name for key in registry.keys.list()] == ["known"]
    cache = ApiKeyCache(registry.keys, stale_seconds=60, required=False)
    cache.reload()
    assert cache.find(known) == record


def test_only_unreadable_api_keys_do_not_make_the_service_public(registry: Registry) -> None:
    registry.keys.add(api_keys.new("one", [Scope.READ])[1])
    overwrite(registry, "keys", LATER, "one")
    cache = ApiKeyCache(ApiKeyRepository(registry.server), stale_seconds=60, required=False)
    cache.reload()
    assert not cache.is_empty
    assert not cache.is_public


def test_unreadable_calibration_counts_as_none(registry: Registry, pair: Pair) -> None:
    x, y = declare(registry, pair, "x"), declare(registry, pair, "y")
    definition = define_head(mlp(((pair.y_anchors[:2], pair.y_anchors[:2, 0]),)), ["a", "b"])
    _, entry = registry.declare_head("h", "y", definition)
    head = entry.record
    assert isinstance(head, Head)
    registry.calibrations.put(x, y, head, "ridge", Calibration(1.0, 0.0), 50)
    assert registry.calibrations.get(x, y, head, "ridge") is not None
    (field,) = registry.server.execute(("HKEYS", "stitchwork:head:h:calibrations"))[0]
    overwrite(registry, "head:h:calibrations", LATER, field.decode())
    assert registry.calibrations.get(x, y, head, "ridge") is None


@pytest.mark.parametrize(
    ("stored", "kinds"),
    [
        ({"layers": [32, 2], "activation": "identity"}, ["linear"]),
        ({"layers": [32, 8, 2], "activation": "gelu"}, ["linear", "gelu", "linear"]),
        ({"layers": [32, 8, 2]}, ["linear", "identity", "linear"]),
        (
            {"layers": [32, 8, 4, 2], "activation": ["relu", "silu"]},
            ["linear", "relu", "linear", "silu", "linear"],
        ),
    ],
)
@pytest.mark.parametrize("number", [None, 2, 3])
def test_head_of_an_earlier_format_has_a_list_of_layers(
    stored: dict[str, object], kinds: list[str], number: int | None
) -> None:
    fields = {"id": "h", "version": "v", "space": "y", "dim": 32, "source": "weights"}
    fields |= {"labels": ["a", "3"], "train_rows": None, "train_accuracy": None}
    fields |= {} if number is None else {"format": number}
    head = load_record(Head, orjson.dumps({**fields, **stored}), "head h")
    assert [layer.kind for layer in head.layers] == kinds
    linear = [layer for layer in head.layers if isinstance(layer, LinearLayer)]
    widths = [linear[0].inputs, *(layer.outputs for layer in linear)]
    assert widths == stored["layers"]
    assert (head.labels, head.problem_type) == (("a", "3"), "single_label_classification")
    assert load_record(Head, dump_record(head), "head h") == head


def test_head_is_stored_with_the_types_of_its_labels() -> None:
    fields = {"id": "h", "version": "v", "space": "y", "dim": 2, "source": "weights"}
    layers = (LinearLayer(inputs=2, outputs=2),)
    for labels in ((1, 0), (True, False), ("1", "true")):
        head = Head.model_validate({**fields, "labels": labels, "layers": layers})
        read = load_record(Head, dump_record(head), "head h")
        assert list(map(type, read.labels)) == list(map(type, labels))
        assert read == head
