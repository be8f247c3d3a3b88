"""The registry's log of changes, and the leases of the processes that serve from memory.

**What is promised.** A response never uses a version older than one that was acknowledged before
the request came, unless it is marked stale. A process that resolves each request on the registry
keeps this promise by itself. A process that answers from memory keeps it by a lease:

- Every commit that changes a record raises the sequence of the log by one and notes the change
  under it, in the same script. Only the last change of each id is kept.
- A process with a lease renews it every `RENEW_SECONDS`, and at once when a change is published. A
  renewal says up to which sequence the process has dropped changed records from its memory
  (*applied*), and its reply names what changed since. The process first drops these records, and
  only then uses the lease, until `LEASE_SECONDS` after the renewal was **sent**.
- A writer acknowledges a commit once every process with a lease has applied its sequence, or
  `WAIT_SECONDS` after the commit. So do reads that show a version as current: a version that a
  worker made ready is acknowledged by the first GET that shows it.

**Why it holds.** Take a commit with sequence S, a process P with a lease at the time of a request,
and an acknowledgement of S before that. The server ran the renewal of this lease either after the
commit, and then its reply made P drop the old record before P used the lease; or before the commit,
and then it was sent before the commit, so that the lease ended at most `LEASE_SECONDS` after the
commit. The writer waited longer, unless P had applied S. No clock of the server takes part, and no
two clocks are compared: each side measures a duration on its own clock, which must run through
suspends (`boot_time`). `WAIT_SECONDS` is a quarter longer than `LEASE_SECONDS`, which allows for
clocks whose rates differ by that much; real ones differ by less than a tenth even while they are
corrected.

A published notice only makes the renewal come sooner, so a lost one costs time and nothing else.
The same is true of a lost reply: the process renews again from the sequence that it has applied. A
commit that changes nothing waits for the sequence that it finds, since the version that it confirms
may still be on its way to a process.

**Restarts, failovers, FLUSHALL.** The server may then have lost changes, and the leases that it
granted. The log has an *epoch*, which every script checks: it begins anew if the server's run id is
not the recorded one, or nothing is recorded. A process whose epoch differs drops all its records. A
new epoch is *settled* once some process has known it for `WAIT_SECONDS`, so that all leases of
earlier epochs have run out; before that, writers wait `WAIT_SECONDS` whatever leases they find.

A process that was killed or paused delays the first acknowledgement by at most `WAIT_SECONDS`; the
writer then removes its lease, unless it was renewed after the commit.

Limits: a virtual machine that is paused by its host must not stop its clock of boot time. Behind
sentinels, a master that was cut off together with a process serves that process until it is
reachable again, as it would for plain reads; `min-replicas-to-write` with `min-replicas-max-lag`
bounds that. Processes of releases before this log write changes that it does not have.

Keys, all under `stitchwork:`:

    versions            hash: `run` (the server's run id), `epoch`, `sequence`, `settled`, `trimmed`
                        (changes up to this sequence are no longer in the log)
    versions:changes    sorted set: `kind:id` by the sequence of its last change
    versions:applied    sorted set: processes by the sequence that they have applied
    versions:granted    sorted set: processes by the sequence at their last renewal
"""

import sys
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis.client import APPLY, Check, RedisClient, commit_arguments
from stitchwork.redis.commands import Command, Word
from stitchwork.redis.subscription import Subscription
from stitchwork.registry.change_log_start import EPOCH, KEYS, STATE

LEASE_SECONDS: Final = 2.0
RENEW_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 1.25 * LEASE_SECONDS
MAX_CHANGES: Final = 10_000
"""Ids whose last change the log has; a process that missed more drops all its records."""
MIN_POLL_SECONDS: Final = 0.001
MAX_POLL_SECONDS: Final = 0.02
POLL_GROWTH: Final = 1.5

# ARGV: the new epoch; what `APPLY` takes; the largest number of changes; the names of changed ids.
COMMIT: Final = f"""{EPOCH}
local at = 1
{APPLY}
local limit = tonumber(take())
if at < #ARGV then
  sequence = redis.call('HINCRBY', state, 'sequence', 1)
  while at < #ARGV do redis.call('ZADD', changes, sequence, take()) end
  local excess = redis.call('ZCARD', changes) - limit
  if excess > 0 then
    local removed = redis.call('ZPOPMIN', changes, excess)
    redis.call('HSET', state, 'trimmed', removed[#removed])
  end
  redis.call('PUBLISH', state, sequence)
end
return {{epoch, sequence}}
"""

# ARGV: the new epoch; the process; its epoch; the sequence that it has applied; 1 if it has known
# its epoch long enough.
RENEW: Final = (
    EPOCH
    + """
if ARGV[3] ~= epoch or tonumber(ARGV[4]) < trimmed then return {epoch, sequence, 0, {}} end
if ARGV[5] == '1' and not settled then redis.call('HSET', state, 'settled', 1) end
redis.call('ZADD', applied, ARGV[4], ARGV[2])
redis.call('ZADD', granted, sequence, ARGV[2])
return {epoch, sequence, 1, redis.call('ZRANGEBYSCORE', changes, '(' .. ARGV[4], '+inf')}
"""
)

# ARGV: the new epoch; a sequence, or empty for the current one.
STATUS: Final = (
    EPOCH
    + """
if ARGV[2] ~= '' then sequence = ARGV[2] end
local behind = redis.call('ZCOUNT', applied, '-inf', '(' .. sequence)
return {epoch, sequence, settled and behind == 0 and 1 or 0}
"""
)

# ARGV: the new epoch; an epoch; a sequence.
# A process that was not granted a lease since the sequence has none that is still valid.
SETTLE: Final = (
    EPOCH
    + """
if ARGV[2] ~= epoch then return 0 end
for _, process in ipairs(redis.call('ZRANGEBYSCORE', granted, '-inf', '(' .. ARGV[3])) do
  redis.call('ZREM', applied, process)
  redis.call('ZREM', granted, process)
end
redis.call('HSET', state, 'settled', 1)
return 1
"""
)

# ARGV: the new epoch; the process.
RELEASE: Final = EPOCH + "redis.call('ZREM', applied, ARGV[2]) redis.call('ZREM', granted, ARGV[2])"


class Position(NamedTuple):
    """A place in the log.

    Attributes:
        epoch: The epoch that the sequence belongs to.
        sequence: The number of changes before it.
    """

    epoch: str
    sequence: int


class Renewal(NamedTuple):
    """The reply to a renewal.

    Attributes:
        position: The end of the log.
        granted: Whether the lease was renewed; if not, all records must be dropped.
        changed: What changed since the position of the renewal, as `kind:id`.
    """

    position: Position
    granted: bool
    changed: list[str]


def _boot_clock() -> Callable[[], float]:
    # macOS has no CLOCK_BOOTTIME, and its CLOCK_MONOTONIC runs through suspends.
    clock = time.CLOCK_MONOTONIC if sys.platform == "darwin" else time.CLOCK_BOOTTIME
    return lambda: time.clock_gettime(clock)


boot_time: Final = _boot_clock()
"""Seconds since the machine started, including those in which it was suspended."""


class ChangeLog:
    """The log on one registry server.

    Args:
        server: The registry server.
        aof_timeout_ms: Milliseconds to wait until the append-only file has a commit; 0 does not
            wait.
    """

    def __init__(self, server: RedisClient, *, aof_timeout_ms: int = 0) -> None:
        self.server = server
        self.aof_timeout_ms = aof_timeout_ms

    def commit(
        self, checks: Sequence[Check], commands: Sequence[Command], changed: Sequence[str] = ()
    ) -> bool:
        """Run all commands atomically, if every check still holds, and acknowledge it.

        Args:
            checks: The conditions.
            commands: The writes, in order.
            changed: The records that readers must read again, as `kind:id`.

        Returns:
            False, with nothing written, if a check no longer holds. True once no process uses what
            was there before.

        Raises:
            RegistryUnavailableError: If the registry is unavailable, or did not confirm the write.
        """
        keys, words = commit_arguments(checks, commands)
        arguments = (*words, MAX_CHANGES, *changed)
        reply = self._run(COMMIT, *arguments, keys=keys, aof_timeout_ms=self.aof_timeout_ms)
        if reply is None:
            return False
        self._wait(Position(reply[0].decode(), int(reply[1])))
        return True

    def acknowledge(self) -> None:
        """Wait until no process uses anything that was replaced before this call."""
        position, done = self._status("")
        if not done:
            self._wait(position)

    def renew(self, process: str, position: Position, *, settled: bool) -> Renewal:
        """Renew the lease of a process.

        Args:
            process: Its name.
            position: The changes that it has applied.
            settled: Whether it has known the epoch of the position for `WAIT_SECONDS`.
        """
        epoch, sequence, granted, changed = self._run(
            RENEW, process, *position, int(settled), keys=()
        )
        names = [name.decode() for name in changed]
        return Renewal(Position(epoch.decode(), int(sequence)), bool(granted), names)

    def subscribe(self) -> Subscription:
        """Notices of changes."""
        # With a client of its own, whose failures do not count as failures of the server.
        return Subscription(self.server.blocking(RENEW_SECONDS), self.server.key(STATE))

    def release(self, process: str) -> None:
        """End the lease of a process that no longer uses its records."""
        self._run(RELEASE, process)

    def read(self, script: str, *arguments: Word) -> tuple[Position, list[Any]]:
        """The reply of a script that reads, and the end of the log at that moment.

        Args:
            script: Lua that begins with `EPOCH`, and returns its epoch and sequence first.
            arguments: What follows the new epoch in ARGV.
        """
        epoch, sequence, *reply = self._run(script, *arguments)
        return Position(epoch.decode(), int(sequence)), reply

    def _status(self, sequence: Word) -> tuple[Position, bool]:
        epoch, current, done = self._run(STATUS, sequence)
        return Position(epoch.decode(), int(current)), bool(done)

    def _wait(self, position: Position) -> None:
        """Wait until every process with a lease has applied this position, or its lease ran out."""
        deadline = boot_time() + WAIT_SECONDS
        pause = MIN_POLL_SECONDS
        is_same_epoch = True
        while (remaining := deadline - boot_time()) > 0:
            if is_same_epoch:
                try:
                    current, done = self._status(position.sequence)
                except RegistryUnavailableError:
                    # Without the registry no lease is granted, and those that were run out.
                    done = False
                else:
                    is_same_epoch = current.epoch == position.epoch
                if done and is_same_epoch:
                    return
            time.sleep(min(pause, remaining))
            pause = min(pause * POLL_GROWTH, MAX_POLL_SECONDS)
        try:
            self._run(SETTLE, position.epoch, position.sequence)
        except RegistryUnavailableError:
            # The next writer waits as well.
            return

    def _run(
        self, script: str, *arguments: Word, keys: Sequence[str] = (), aof_timeout_ms: int = 0
    ) -> Any:
        return self.server.run_script(
            script,
            (*map(self.server.key, KEYS), *keys),
            uuid.uuid4().hex,
            *arguments,
            aof_timeout_ms=aof_timeout_ms,
        )
