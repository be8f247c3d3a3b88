"""Backup and restore of the registry: all records as of one moment, and the arrays they name.

The records are read in one script, so they fit together. Their arrays are read after it: those of a
version never change, and stay for an hour after it was replaced. What is registered while the
backup runs is not in it.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stitchwork.errors import ConflictError
from stitchwork.redis import chunked_arrays
from stitchwork.redis.client import RedisClient
from stitchwork.redis.commands import Command, Word
from stitchwork.registry import change_log_start
from stitchwork.registry.api_keys import KEYS, VERSION
from stitchwork.registry.backup_files import (
    BackupReader,
    BackupWriter,
    dump_json,
    new_backup,
    open_backup,
    raw,
    text,
)
from stitchwork.registry.change_log import ChangeLog
from stitchwork.registry.changes import REGISTRATIONS, REPLACED_SECONDS
from stitchwork.registry.space_checks import DUE

KINDS: Final = ("anchor-set", "space", "head")
RECORDS: Final = "records.json"
BLOCKS: Final = "blocks.json"
ATTEMPTS: Final = 3
"""How often the records are read, if a registration ends while its inputs are copied."""

# ARGV prefix, kinds…: for each kind, for each id: its fields, dependents and calibrations.
SNAPSHOT: Final = """
local result = {}
for i = 2, #ARGV do
  local entries = {}
  for _, id in ipairs(redis.call('ZRANGE', ARGV[1] .. ARGV[i], 0, -1)) do
    local key = ARGV[1] .. ARGV[i] .. ':' .. id
    entries[#entries + 1] = {id, redis.call('HGETALL', key),
      redis.call('SMEMBERS', key .. ':dependents'), redis.call('HGETALL', key .. ':calibrations')}
  end
  result[#result + 1] = entries
end
result[#result + 1] = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
result[#result + 1] = redis.call('HGETALL', KEYS[2])
result[#result + 1] = redis.call('ZRANGE', KEYS[3], 0, -1)
return result
"""

# ARGV prefix, replace, lifetime of replaced arrays, number of kinds, kinds…, then commands, each
# preceded by its number of words. A renamed key may be there no more if the script is sent twice.
# Without the keys of the log of changes a new epoch begins, and every process drops its records.
RESTORE: Final = """
local prefix, replace, lifetime = ARGV[1], ARGV[2], ARGV[3]
local at = 4 + tonumber(ARGV[4])
local present = redis.call('EXISTS', KEYS[2])
for i = 5, at do present = present + redis.call('EXISTS', prefix .. ARGV[i]) end
if present > 0 and replace == '0' then return 0 end
for i = 5, at do
  for _, id in ipairs(redis.call('ZRANGE', prefix .. ARGV[i], 0, -1)) do
    local key = prefix .. ARGV[i] .. ':' .. id
    for _, field in ipairs({'record', 'draft'}) do
      local record = redis.call('HGET', key, field) or ''
      local version = string.match(record, '"version":"([^"]*)"')
      if version then
        redis.call('EXPIRE', key .. ':arrays:' .. version, lifetime)
        redis.call('DEL', key .. ':inputs:' .. version, key .. ':parts:' .. version)
      end
    end
    redis.call('DEL', key, key .. ':dependents', key .. ':calibrations')
  end
  redis.call('DEL', prefix .. ARGV[i])
end
redis.call('DEL', unpack(KEYS))
while at < #ARGV do
  local words = {}
  for i = 1, tonumber(ARGV[at + 1]) do words[i] = ARGV[at + 1 + i] end
  at = at + 1 + #words
  if words[1] ~= 'RENAME' or redis.call('EXISTS', words[2]) == 1 then
    redis.call(unpack(words))
  end
end
redis.call('PUBLISH', KEYS[3], 0)
return 1
"""

ALL: Final = float("inf")
Records = dict[str, Any]
Members = dict[str, str]
"""The members of a backup that hold the blocks of one key, by their fields."""


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What a backup holds.

    Attributes:
        counts: Resources of each kind, and API keys.
        created: When it was made.
        incomplete: Resources, as `kind:id`, whose record cannot be parsed or whose arrays are
            missing from the registry; only their records are in the backup.
    """

    counts: Mapping[str, int]
    created: str
    incomplete: Sequence[str]


def write_backup(server: RedisClient, path: Path) -> BackupSummary:
    """Write a backup of the registry to a new file.

    Raises:
        ConflictError: If the file exists.
        RegistryUnavailableError: If the registry is unavailable.
    """
    with new_backup(path) as writer:
        blocks = _BlockCopy(server, writer)
        for _ in range(ATTEMPTS):
            records = _snapshot(server)
            members, incomplete = blocks.copy(records)
            if not incomplete:
                break
        writer.write(RECORDS, dump_json(records | {"incomplete": incomplete}))
        writer.write(BLOCKS, dump_json(members))
    with open_backup(path) as reader:
        return _summary(reader)


def restore_backup(changes: ChangeLog, path: Path, *, replace: bool = False) -> BackupSummary:
    """Make the registry what it was when a backup was made, in one step.

    Nothing changes before the whole file has been verified and its arrays are on the server.

    Args:
        changes: The log of changes of the registry.
        path: The backup.
        replace: Replace what is registered; otherwise the registry must be empty.

    Returns:
        What the backup holds, once no process uses anything that was registered before.

    Raises:
        ConflictError: If something is registered, and it is not to be replaced.
        IncompatibleFormatError: If a later release made the backup.
        CorruptDataError: If the file is damaged.
        RegistryUnavailableError: If the registry is unavailable, or did not confirm the write.
    """
    with open_backup(path) as reader:
        reader.verify()
        summary = _summary(reader)
        commands = [
            *_upload(changes.server, reader),
            *_record_commands(changes.server, json.loads(reader.read(RECORDS))),
        ]
        prefix = changes.server.key("")
        words: list[Word] = [prefix, int(replace), REPLACED_SECONDS, len(KINDS), *KINDS]
        for command in commands:
            words += [len(command), *command]
        keys = [*map(changes.server.key, (REGISTRATIONS, KEYS, *change_log_start.KEYS, DUE))]
        done = changes.server.run_script(
            RESTORE, keys, *words, aof_timeout_ms=changes.aof_timeout_ms
        )
        if not done:
            raise ConflictError(
                "expected an empty registry, got one with resources or API keys; pass --replace to "
                "replace them all"
            )
        changes.acknowledge()
        return summary


def _snapshot(server: RedisClient) -> Records:
    *kinds, registrations, keys, checks = server.run_script(
        SNAPSHOT, [*map(server.key, (REGISTRATIONS, KEYS, DUE))], server.key(""), *KINDS
    )
    return {
        "kinds": {
            kind: {
                text(id_): {
                    "fields": _pairs(fields),
                    "dependents": [text(member) for member in dependents],
                    "calibrations": _pairs(calibrations),
                }
                for id_, fields, dependents, calibrations in entries
            }
            for kind, entries in zip(KINDS, kinds, strict=True)
        },
        "registrations": _pairs(registrations),
        "keys": _pairs(keys),
        "checks": [text(id_) for id_ in checks],
    }


class _BlockCopy:
    """Copies the arrays that records name, each version once."""

    def __init__(self, server: RedisClient, writer: BackupWriter) -> None:
        self._server = server
        self._writer = writer
        self._written = 0
        self._members: dict[str, Members] = {}

    def copy(self, records: Records) -> tuple[dict[str, Members], list[str]]:
        """The members of each key's blocks, and the resources whose arrays are not there."""
        blocks, incomplete = dict[str, Members](), list[str]()
        for kind, entries in records["kinds"].items():
            for id_, entry in entries.items():
                name = f"{kind}:{id_}"
                try:
                    keys = list(_array_keys(name, entry["fields"]))
                except (ValueError, KeyError, TypeError, AttributeError):
                    incomplete.append(name)
                    continue
                copied = {key: self._copy_key(key, before) for key, before, _ in keys}
                blocks |= {key: members for key, members in copied.items() if members}
                if any(is_required and not copied[key] for key, _, is_required in keys):
                    incomplete.append(name)
        return blocks, incomplete

    def _copy_key(self, key: str, before: float) -> Members:
        """Copy the blocks of a key whose numbers are below `before`."""
        if before == ALL and self._members.get(key):
            return self._members[key]
        members: Members = {}
        for field in sorted(self._server.execute(("HKEYS", self._server.key(key)))[0], key=int):
            (data,) = self._server.execute(("HGET", self._server.key(key), field))
            if data is not None and int(field) < before:
                self._written += 1
                members[text(field)] = f"blocks/{self._written:08}"
                self._writer.write(members[text(field)], data)
        self._members[key] = members
        return members


def _array_keys(name: str, fields: Mapping[str, str]) -> Iterator[tuple[str, float, bool]]:
    """The keys of a resource's arrays, the end of the blocks that belong, and if there must be any.

    Parts of a registration are numbered by their start, and come after the record was read too.
    """
    if data := fields.get("record"):
        record = json.loads(data)
        yield f"{name}:arrays:{record['version']}", ALL, bool(record.get("has_items", True))
    if data := fields.get("draft"):
        registration = json.loads(data)
        version, done = registration["version"], int(registration.get("done", 0))
        yield f"{name}:inputs:{version}", ALL, False
        yield f"{name}:parts:{version}", done, done > 0


def _upload(server: RedisClient, reader: BackupReader) -> Iterator[Command]:
    """Store the arrays under temporary keys, and yield the commands that put them in place."""
    token = secrets.token_hex(8)
    for number, (key, members) in enumerate(json.loads(reader.read(BLOCKS)).items()):
        temporary = server.key("restore", token, str(number))
        for field, member in members.items():
            block = (raw(field), reader.read(member), REPLACED_SECONDS)
            server.run_script(chunked_arrays.WRITE, (temporary,), *block)
        yield ("RENAME", temporary, server.key(key))
        yield ("PERSIST", server.key(key))


def _record_commands(server: RedisClient, records: Records) -> Iterator[Command]:
    for kind, entries in records["kinds"].items():
        for id_, entry in entries.items():
            key = server.key(kind, id_)
            yield ("ZADD", server.key(kind), 0, id_)
            yield from _hash(key, entry["fields"])
            yield from _hash(f"{key}:calibrations", entry["calibrations"])
            for member in entry["dependents"]:
                yield ("SADD", f"{key}:dependents", member)
    for member, score in records["registrations"].items():
        yield ("ZADD", server.key(REGISTRATIONS), score, member)
    for id_ in records["checks"]:
        # Due at once: the process that had taken it may be gone.
        yield ("ZADD", server.key(DUE), 0, id_)
    yield from _hash(server.key(KEYS), records["keys"])
    # Another value than any before, so that every process reads the keys again.
    yield ("SET", server.key(VERSION), secrets.token_hex(8))


def _hash(key: str, fields: Mapping[str, str]) -> Iterator[Command]:
    for field, value in fields.items():
        yield ("HSET", key, raw(field), raw(value))


def _pairs(flat: Sequence[bytes]) -> dict[str, str]:
    texts = [text(part) for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _summary(reader: BackupReader) -> BackupSummary:
    records = json.loads(reader.read(RECORDS))
    counts = {kind: len(records["kinds"][kind]) for kind in KINDS}
    counts["API key"] = len(records["keys"])
    return BackupSummary(counts, reader.created, records["incomplete"])
