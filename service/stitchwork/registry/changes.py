"""The commands that change the state of one id, from the state before and the change."""

from collections.abc import Iterator
from typing import Any, Final

from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import Command
from stitchwork.registry.entries import Entry, R, Write
from stitchwork.registry.stored_records import dump_record
from stitchwork.resources import Arrays

REGISTRATIONS: Final = "drafts"
REPLACED_SECONDS: Final = 3600
"""How long a replaced version stays readable, and an upload waits for its commit: far longer than
any request may take."""
PARENT_KINDS: Final = {"space": "anchor-set", "head": "space"}
"""The kind of what resources of a kind depend on."""
BATCH: Final = 1000


def changes(server: RedisClient, kind: str, before: Entry[R], write: Write[R]) -> list[Command]:
    """The commands that make a change.

    Args:
        server: The registry server.
        kind: Singular name, such as `space`.
        before: The state before.
        write: The change.
    """
    id_, key, name = before.id, server.key(kind, before.id), f"{kind}:{before.id}"
    after: Entry[R] = Entry(id_, write.record, write.registration)
    commands: list[Command] = [("ZADD", server.key(kind), 0, id_)]
    for parent in before.parents - after.parents:
        commands.append(("SREM", server.key(parent, "dependents"), name))
    for parent in after.parents:
        commands.append(("SADD", server.key(parent, "dependents"), name))
    for field, part in (("record", write.record), ("draft", write.registration)):
        if part is None:
            commands.append(("HDEL", key, field))
        else:
            commands.append(("HSET", key, field, dump_record(part)))
    if before.record and before.version != after.version:
        commands.append(("EXPIRE", f"{key}:arrays:{before.version}", REPLACED_SECONDS))
        commands.append(("DEL", f"{key}:calibrations"))
    earlier, later = before.registration, write.registration
    if earlier and (later is None or later.version != earlier.version):
        commands.append(("DEL", f"{key}:parts:{earlier.version}"))
        commands.append(("DEL", f"{key}:inputs:{earlier.version}"))
    elif earlier and later and later.done < earlier.done:
        commands.append(("DEL", f"{key}:parts:{earlier.version}"))
    if later and later.status == "pending":
        commands.append(("ZADD", server.key(REGISTRATIONS), server.now_ms(), name))
    else:
        commands.append(("ZREM", server.key(REGISTRATIONS), name))
    return commands


def unreadable_removal(server: RedisClient, kind: str, id_: str) -> Iterator[Command]:
    """Further commands that delete an id whose records cannot be read.

    Only its records name its versions and what it depends on, so its keys are searched, and all
    that it may depend on.

    Args:
        server: The registry server.
        kind: Singular name, such as `space`.
        id_: The id.
    """
    with server.session() as client:
        keys: Any = client.scan_iter(match=server.key(kind, id_, "*"), count=BATCH)
        for key in keys:
            if b":arrays:" in key:
                yield ("EXPIRE", key, REPLACED_SECONDS)
            else:
                yield ("DEL", key)
        parent_kind = PARENT_KINDS.get(kind)
        ids: Any = client.zrange(server.key(parent_kind), 0, -1) if parent_kind else []
    parents = [f"{parent_kind}:{raw.decode(errors='replace')}" for raw in ids]
    names = [server.key(parent, "dependents") for parent in parents]
    for start in range(0, len(names), BATCH):
        batch = names[start : start + BATCH]
        reads = [("SISMEMBER", name, f"{kind}:{id_}") for name in batch]
        replies = server.execute(*reads, allow_wrong_type=True)
        for name, is_member in zip(batch, replies, strict=True):
            if is_member == 1:
                yield ("SREM", name, f"{kind}:{id_}")


def uploads(key: str, write: Write[R]) -> dict[str, Arrays]:
    """The arrays that a change stores, by their keys.

    Args:
        key: The key of the id.
        write: The change.
    """
    result = {}
    if write.record and write.arrays is not None:
        result[f"{key}:arrays:{write.record.version}"] = write.arrays
    if write.registration and write.inputs is not None:
        result[f"{key}:inputs:{write.registration.version}"] = write.inputs
    return result
