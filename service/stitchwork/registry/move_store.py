"""Moves of stores: the last report of each, and how the result was judged.

What runs a move reports it, under an id of its own. A move is not part of what is registered: it is
not in a backup, a write is not awaited in the append-only file, and of too many moves some are
removed. The API key that first reports a move owns it: no other key changes it, except one of scope
admin.

Keys, all under `stitchwork:`:

    moves               sorted set of ids, by the time of the first report in milliseconds
    moves:owners        sorted set of owners, by the number of their moves
    moves:owner:{name}  sorted set of an owner's ids, by the time of the last report in
                        microseconds; of a running move, by that from which it counts as interrupted
    move:{id}           hash: `report`, `assessment`, `created`, `updated` and `owner`; of the calls
                        of the command, `run` is the current one, `past` those before it, and
                        `ended` whether the current one has ended

No two moves have the same time of the first report: it is the place in a list. Of too many moves,
the owner with the largest number loses the one with the lowest time: those that have ended before
those that run, and nobody those of another.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from stitchwork.errors import (
    IncompatibleFormatError,
    InsufficientScopeError,
    UnknownResourceError,
)
from stitchwork.redis.client import RedisClient
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources import ApiKey, Scope
from stitchwork.resources.moves import MoveAssessment, MoveReport, MoveStatus

MOVE: Final = "move"
MOVES: Final = "moves"
OWNERS: Final = "moves:owners"
OWNER: Final = "moves:owner"
NOBODY: Final = "-"
"""The owner of moves that are reported without a key; it is the name of no key."""
MAX_MOVES: Final = 5000
"""Moves that are stored: each shard of a large job is one."""
MAX_SILENCE_SECONDS: Final = 60.0
"""Time without a report after which a running move counts as interrupted."""
FIELDS: Final = ("report", "assessment", "created", "updated")

UNKNOWN: Final = 0
"""The reply of a script if there is no such move."""
FOREIGN: Final = -1
"""The reply of a script if the move is of another key."""
IS_FOREIGN: Final = """
local function is_foreign(owner, name, is_admin)
  return owner and owner ~= '-' and owner ~= name and is_admin == '0'
end
"""

# KEYS moves, owners, the move, moves of the key; ARGV prefix of moves, prefix of owners'
# moves, id, report, name of the key, whether it is an admin's, run, whether it has ended, largest
# number of moves, milliseconds until a move without reports counts as interrupted.
PUT_REPORT: Final = (
    IS_FOREIGN
    + """
local prefix, owned, id, report, name, is_admin, run, ended = unpack(ARGV, 1, 8)
local limit, silence = tonumber(ARGV[9]), tonumber(ARGV[10])
local key = KEYS[3]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_known = redis.call('ZSCORE', KEYS[1], id)
local owner, last, last_ended, past = false, '', '0', ' '
if is_known then
  local values = redis.call('HMGET', key, 'owner', 'run', 'ended', 'past')
  owner, last, last_ended = values[1], values[2] or '', values[3]
  past = values[4] or ' '
  if is_foreign(owner, name, is_admin) then return -1 end
end
if run ~= '' then
  -- Reports that were delayed arrive after those that were sent later.
  local is_late = run == last and last_ended == '1' and ended == '0'
  if is_late or string.find(past, ' ' .. run .. ' ', 1, true) then return 1 end
  if run ~= last and last ~= '' then past = string.sub(past .. last .. ' ', -1000) end
  last = run
end
if not is_known then
  redis.call('DEL', key)
  local latest = tonumber(redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]) or 0
  local created = string.format('%.0f', math.max(now, latest + 1))
  redis.call('ZADD', KEYS[1], created, id)
  redis.call('HSET', key, 'created', created)
end
local function count(who)
  local moves = redis.call('ZCARD', owned .. who)
  if moves > 0 then redis.call('ZADD', KEYS[2], moves, who)
  else redis.call('ZREM', KEYS[2], who) end
end
local function remove(who, which)
  redis.call('ZREM', owned .. who, which)
  count(who)
end
if owner == '-' and name ~= '-' then
  remove(owner, id)
  owner = name
end
owner = owner or name
local updated = string.format('%.0f', now)
redis.call('HSET', key, 'report', report, 'updated', updated, 'owner', owner)
redis.call('HSET', key, 'run', last, 'ended', ended, 'past', past)
local rank = time[1] * 1e6 + time[2] + (ended == '1' and 0 or silence * 1000)
redis.call('ZADD', owned .. owner, string.format('%.0f', rank), id)
count(owner)
while redis.call('ZCARD', KEYS[1]) > limit do
  local largest = redis.call('ZREVRANGE', KEYS[2], 0, 0)[1]
  local ids = redis.call('ZRANGE', owned .. largest, 0, 1)
  local old = ids[1] == id and ids[2] or ids[1]
  if not old then break end
  remove(largest, old)
  redis.call('ZREM', KEYS[1], old)
  redis.call('DEL', prefix .. old)
end
return 1
"""
)

# KEYS moves, the move; ARGV id, assessment, name of the key, whether it is an admin's.
PUT_ASSESSMENT: Final = (
    IS_FOREIGN
    + """
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
if is_foreign(redis.call('HGET', KEYS[2], 'owner'), ARGV[3], ARGV[4]) then return -1 end
redis.call('HSET', KEYS[2], 'assessment', ARGV[2])
return 1
"""
)


@dataclass(frozen=True, slots=True)
class MoveEntry:
    """What is known of a move.

    Attributes:
        id: Its id.
        report: The last report; the status of one that no longer reports is `interrupted`.
        assessment: How its result was judged, if it was.
        created: When it was first reported.
        updated: When it was last reported.
    """

    id: str
    report: MoveReport
    assessment: MoveAssessment | None
    created: datetime
    updated: datetime


class MoveList(NamedTuple):
    """A part of the list of moves.

    Attributes:
        entries: The moves, the latest first.
        cursor: Where the next part begins; None at the end.
        unreadable: Ids of moves that another release stored.
    """

    entries: list[MoveEntry]
    cursor: int | None
    unreadable: list[str]


class MoveStore:
    """The moves on the registry server.

    Args:
        server: The registry server.
        max_moves: How many are stored.
        silence_seconds: Time without a report after which a running move counts as interrupted.
    """

    def __init__(
        self,
        server: RedisClient,
        max_moves: int = MAX_MOVES,
        silence_seconds: float = MAX_SILENCE_SECONDS,
    ) -> None:
        self._server = server
        self._max_moves = max_moves
        self._silence_ms = silence_seconds * 1000

    def put_report(
        self, id_: str, report: MoveReport, *, key: ApiKey | None = None, run: str | None = None
    ) -> None:
        """Store the last report of a move.

        Args:
            id_: Id of the move.
            report: The report.
            key: The key that it came with; None if none is required.
            run: Which call of the command it is of. A report of an earlier call changes nothing,
                nor one that the current call is running once it has ended. None if it is unknown.

        Raises:
            InsufficientScopeError: If the move is of another key, and this is not an admin's.
            RegistryUnavailableError: If the registry is unavailable.
        """
        ended = int(report.status != "running")
        name, is_admin = _identity(key)
        lists = (self._server.key(MOVES), self._server.key(OWNERS))
        reply = self._server.run_script(
            PUT_REPORT,
            (*lists, self._key(id_), self._server.key(OWNER, name)),
            *(self._key(""), self._server.key(OWNER, ""), id_, dump_record(report), name, is_admin),
            *(run or "", ended, self._max_moves, int(self._silence_ms)),
        )
        _check_reply(reply, id_, key)

    def put_assessment(
        self, id_: str, assessment: MoveAssessment, *, key: ApiKey | None = None
    ) -> None:
        """Store how the result of a move was judged.

        Args:
            id_: Id of the move.
            assessment: The assessment.
            key: The key that it came with; None if none is required.

        Raises:
            UnknownResourceError: If there is no such move.
            InsufficientScopeError: If the move is of another key, and this is not an admin's.
            RegistryUnavailableError: If the registry is unavailable.
        """
        keys = (self._server.key(MOVES), self._key(id_))
        words = (id_, dump_record(assessment), *_identity(key))
        reply = self._server.run_script(PUT_ASSESSMENT, keys, *words)
        _check_reply(reply, id_, key)

    def get(self, id_: str) -> MoveEntry:
        """One move.

        Raises:
            UnknownResourceError: If there is no such move.
            IncompatibleFormatError: If another release stored it.
            RegistryUnavailableError: If the registry is unavailable.
        """
        (entry,) = self._read([id_])
        if entry is None:
            raise _unknown(id_)
        if isinstance(entry, IncompatibleFormatError):
            raise entry
        return entry

    def page(self, limit: int, before: int | None = None) -> MoveList:
        """The moves whose first report is the latest.

        Args:
            limit: How many at most.
            before: The cursor of the part before; None for the first part.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        highest = "+inf" if before is None else f"({before}"
        (reply,) = self._server.execute(
            (
                *("ZREVRANGEBYSCORE", self._server.key(MOVES), highest, "-inf"),
                *("WITHSCORES", "LIMIT", 0, limit + 1),
            )
        )
        rows = _scores(reply)
        ids = [id_ for id_, _ in rows[:limit]]
        cursor = rows[limit - 1][1] if len(rows) > limit else None
        entries = dict(zip(ids, self._read(ids), strict=True))
        return MoveList(
            [entry for entry in entries.values() if isinstance(entry, MoveEntry)],
            cursor,
            [id_ for id_, entry in entries.items() if isinstance(entry, IncompatibleFormatError)],
        )

    def _read(self, ids: Sequence[str]) -> list[MoveEntry | IncompatibleFormatError | None]:
        """Moves by their ids; None for an id that has none, an error for one that is unreadable."""
        reads = [("HMGET", self._key(id_), *FIELDS) for id_ in ids]
        (seconds, micros), *replies = self._server.execute(("TIME",), *reads, allow_wrong_type=True)
        now_ms = int(seconds) * 1000 + int(micros) / 1000
        return [self._entry(*pair, now_ms) for pair in zip(ids, replies, strict=True)]

    def _entry(
        self, id_: str, reply: Any, now_ms: float
    ) -> MoveEntry | IncompatibleFormatError | None:
        if isinstance(reply, list) and not any(reply):
            return None
        try:
            report_data, assessment_data, created, updated = reply
            report = load_record(MoveReport, report_data, f"{MOVE} {id_}")
            assessment = assessment_data and load_record(
                MoveAssessment, assessment_data, f"{MOVE} {id_}"
            )
            updated_ms = int(updated)
            status: MoveStatus = report.status
            if status == "running" and now_ms - updated_ms > self._silence_ms:
                report = report.model_copy(update={"status": "interrupted"})
            return MoveEntry(id_, report, assessment, _time(int(created)), _time(updated_ms))
        except IncompatibleFormatError as error:
            return error
        except (TypeError, ValueError, OverflowError):
            return IncompatibleFormatError(f"the stored record of {MOVE} {id_} is damaged")

    def _key(self, id_: str) -> str:
        return self._server.key(MOVE, id_)


def _scores(reply: Sequence[Any]) -> list[tuple[str, int]]:
    """The members and scores of a sorted set, which come one after the other."""
    names = [name.decode(errors="replace") for name in reply[::2]]
    return list(zip(names, (int(float(score)) for score in reply[1::2]), strict=True))


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def _identity(key: ApiKey | None) -> tuple[str, int]:
    """The name of a key, and whether it may change every move, as all may where none is set."""
    return (NOBODY, 1) if key is None else (key.name, int(key.opens([Scope.ADMIN])))


def _check_reply(reply: Any, id_: str, key: ApiKey | None) -> None:
    if reply == UNKNOWN:
        raise _unknown(id_)
    if reply == FOREIGN and key is not None:
        raise InsufficientScopeError(
            f"move {id_} is reported with another key: expected that key, or one of scope admin, "
            f"{key.name} has {', '.join(key.scopes)}"
        )


def _unknown(id_: str) -> UnknownResourceError:
    return UnknownResourceError(f"no move {id_} is known")
