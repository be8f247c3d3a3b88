"""The embeddings of a registration so far, which a worker stores part by part."""

from collections.abc import Iterator
from typing import Any, Final, cast

from stitchwork.errors import NotReadyError
from stitchwork.redis.client import Check
from stitchwork.redis.serialization import pack, unpack
from stitchwork.registry.changes import REGISTRATIONS
from stitchwork.registry.repository import Repository
from stitchwork.registry.stored_records import dump_record
from stitchwork.resources import Arrays, Registration

PARTS: Final = 64
"""Parts that are read at once."""


def save_part(
    repository: Repository[Any], registration: Registration, advanced: Registration, arrays: Arrays
) -> bool:
    """Store one part of the work of a registration, and the registration after it.

    Returns:
        False, with nothing stored, if the registration was replaced or has advanced.
    """
    (entry,) = repository.read(registration.id)
    if entry.registration != registration:
        return False
    server, key = repository.server, repository.key(registration.id)
    parts = repository.key(registration.id, "parts", registration.version)
    name = f"{repository.kind}:{registration.id}"
    return server.commit(
        [Check(("HGET", key, "draft"), entry.stored[1])],
        [
            ("HSET", parts, registration.done, pack(arrays)),
            ("HSET", key, "draft", dump_record(advanced)),
            ("ZADD", server.key(REGISTRATIONS), server.now_ms(), name),
        ],
    )


def read_parts(repository: Repository[Any], registration: Registration) -> Iterator[Arrays]:
    """All parts of a registration that `save_part` stored, in the order of their starts.

    Raises:
        NotReadyError: If they are deleted meanwhile, since the registration was replaced or
            completed.
    """
    key = repository.key(registration.id, "parts", registration.version)
    with repository.server.session() as client:
        starts = sorted(cast(list[bytes], client.hkeys(key)), key=int)
    for at in range(0, len(starts), PARTS):
        with repository.server.session() as client:
            values = cast(list[bytes | None], client.hmget(key, starts[at : at + PARTS]))
        for data in values:
            if data is None:
                raise NotReadyError(
                    f"{repository.kind} {registration.id} is ready, or declared anew"
                )
            yield unpack(data)[0]
