"""The error of an id that is not registered, with the nearest id that is."""

from difflib import get_close_matches
from typing import Final, cast

from stitchwork.errors import RegistryUnavailableError, UnknownResourceError
from stitchwork.redis.client import RedisClient

MAX_IDS: Final = 1000
"""Ids that are compared."""


def unknown_id(server: RedisClient, key: str, kind: str, id_: str) -> UnknownResourceError:
    """The error of an id that is not registered.

    Args:
        server: The registry's server.
        key: Key of the sorted set of the ids of this kind.
        kind: What the id was to name.
        id_: The id.
    """
    similar = get_close_matches(id_, _first_ids(server, key), 1)
    suggestion = f"; did you mean {similar[0]}?" if similar else ""
    return UnknownResourceError(f"no {kind} {id_} is registered{suggestion}")


def _first_ids(server: RedisClient, key: str) -> list[str]:
    """The first ids; none if they cannot be read."""
    try:
        with server.session() as client:
            reply = client.zrangebylex(key, "-", "+", start=0, num=MAX_IDS)
    except RegistryUnavailableError:
        return []
    return [raw.decode(errors="replace") for raw in cast(list[bytes], reply)]
