"""Moves of stores: the last report of each, and how the result was judged.

What runs a move reports it, under an id of its own. A move is not part of what is registered: it is
not in a backup, a write is not awaited in the append-only file, and of many moves the last ones are
kept.

Keys, all under `stitchwork:`:

    moves          sorted set of ids, by the time of the first report in milliseconds
    moves:updated  sorted set of ids, by the time of the last report
    move:{id}      hash: `report`, `assessment`, `created` and `updated`

No two moves have the same time: it is the place in a list, and the order of removal.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from stitchwork.errors import IncompatibleFormatError, UnknownResourceError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources.moves import MoveAssessment, MoveReport, MoveStatus

MOVE: Final = "move"
MOVES: Final = "moves"
UPDATED: Final = "moves:updated"
MAX_MOVES: Final = 1000
"""Moves that are stored. Those whose last report is the oldest are removed first."""
MAX_SILENCE_SECONDS: Final = 60.0
"""Time without a report after which a running move counts as interrupted."""
FIELDS: Final = ("report", "assessment", "created", "updated")

# KEYS moves, updated; ARGV prefix, id, report, largest number of moves.
PUT_REPORT: Final = """
local prefix, id, limit = ARGV[1], ARGV[2], tonumber(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function add(key)
  local last = redis.call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]
  local score = string.format('%.0f', math.max(now, (tonumber(last) or 0) + 1))
  redis.call('ZADD', key, score, id)
  return score
end
if not redis.call('ZSCORE', KEYS[1], id) then
  redis.call('DEL', prefix .. id)
  redis.call('HSET', prefix .. id, 'created', add(KEYS[1]))
end
redis.call('HSET', prefix .. id, 'report', ARGV[3], 'updated', add(KEYS[2]))
for _, old in ipairs(redis.call('ZRANGE', KEYS[2], 0, -limit - 1)) do
  redis.call('ZREM', KEYS[1], old)
  redis.call('ZREM', KEYS[2], old)
  redis.call('DEL', prefix .. old)
end
return 1
"""

# KEYS moves; ARGV prefix, id, assessment.
PUT_ASSESSMENT: Final = """
if not redis.call('ZSCORE', KEYS[1], ARGV[2]) then return 0 end
redis.call('HSET', ARGV[1] .. ARGV[2], 'assessment', ARGV[3])
return 1
"""


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

    def put_report(self, id_: str, report: MoveReport) -> None:
        """Store the last report of a move.

        Raises:
            RegistryUnavailableError: If the registry is unavailable.
        """
        keys = (self._server.key(MOVES), self._server.key(UPDATED))
        words = (self._key(""), id_, dump_record(report), self._max_moves)
        self._server.run_script(PUT_REPORT, keys, *words)

    def put_assessment(self, id_: str, assessment: MoveAssessment) -> None:
        """Store how the result of a move was judged.

        Raises:
            UnknownResourceError: If there is no such move.
            RegistryUnavailableError: If the registry is unavailable.
        """
        words = (self._key(""), id_, dump_record(assessment))
        if not self._server.run_script(PUT_ASSESSMENT, (self._server.key(MOVES),), *words):
            raise _unknown(id_)

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


def _unknown(id_: str) -> UnknownResourceError:
    return UnknownResourceError(f"no move {id_} is known")
