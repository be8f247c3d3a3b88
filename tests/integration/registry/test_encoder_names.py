"""Encoders are named by the models of the spaces that have them."""

from stitchwork.api.encoder_names import EncoderNames
from stitchwork.redis.client import RedisClient
from stitchwork.registry.declarations import SpaceDeclaration
from stitchwork.registry.registry import Registry
from stitchwork.resources import TextEncoder, encoder_key


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
