"""The queue server's keys and the scripts that keep them consistent.

jobs                    hash of streams that exist: encoder → its model's name
jobs:{encoder}          stream of one encoder's jobs, with the consumer group `workers`; an entry
                        holds deadline and size alone, so that looking at a queue stays cheap
jobs:{encoder}:{entry}  the job and its inputs
jobs:{encoder}:pace     hash: inputs that the stream holds, and milliseconds that one takes
bytes                   bytes that queued jobs hold in all
replies:{api}           list of one API process's replies; no lifetime, so that it is not evictable
apis, workers           sorted sets of living processes by the server's time, in milliseconds
announced               hash of what each worker says about itself
dead, dead:{letter}     stream of jobs that were given up, and the jobs themselves

Scripts name keys that they derive from others, which a Redis Cluster would not allow.
"""

import uuid
from typing import Any, Final, NamedTuple

from stitchwork.errors import ErrorCode, QueueFullError
from stitchwork.queue.messages import Job, registration_job
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import Registration

GROUP: Final = "workers"
JOBS: Final = PREFIX + "jobs"
BYTES: Final = PREFIX + "bytes"
REPLIES: Final = PREFIX + "replies"
APIS: Final = PREFIX + "apis"
WORKERS: Final = PREFIX + "workers"
ANNOUNCED: Final = PREFIX + "announced"
DEAD: Final = PREFIX + "dead"
NUDGE_SECONDS: Final = 5
GONE_MS: Final = 60_000
"""An API process that was silent this long gets no more replies."""

NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

GROUP_STATE: Final = """
local function state(stream)
  local told, found = redis.call('XINFO', 'GROUPS', stream)[1] or {}, {}
  for i = 1, #told, 2 do found[told[i]] = told[i + 1] end
  return found
end
local function first_waiting(stream)
  local last = state(stream)['last-delivered-id']
  return last and redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', 1)[1]
end
local function age(entry) return now - tonumber(string.match(entry[1], '^%d+')) end
"""

# KEYS stream, jobs, bytes, apis
# ARGV job, inputs, stream name, model, most jobs, most bytes, most ms of waiting, workers, ms, api
ADMIT: Final = (
    NOW
    + GROUP_STATE
    + """
local pace = KEYS[1] .. ':pace'
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
  redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
end
local held = redis.call('XLEN', KEYS[1])
if held == 0 then redis.call('HSET', pace, 'items', 0) end
if tonumber(ARGV[5]) > 0 then
  if held >= tonumber(ARGV[5]) then return 'full-jobs' end
  local bytes = tonumber(redis.call('GET', KEYS[3]) or '0')
  if bytes + #ARGV[1] > tonumber(ARGV[6]) then return 'full-bytes' end
  local first = first_waiting(KEYS[1])
  if first and age(first) > tonumber(ARGV[7]) then return 'full-age' end
  local told = redis.call('HMGET', pace, 'items', 'ms')
  local wait = tonumber(told[1] or '0') * tonumber(told[2] or '0') / math.max(1, ARGV[8])
  if wait > tonumber(ARGV[7]) then return 'full-wait' end
end
if ARGV[10] ~= '' then redis.call('ZADD', KEYS[4], now, ARGV[10]) end
local size, deadline = #ARGV[1], now + ARGV[9]
local entry = redis.call('XADD', KEYS[1], '*', 'size', size, 'items', ARGV[2], 'deadline', deadline)
redis.call('SET', KEYS[1] .. ':' .. entry, ARGV[1])
redis.call('INCRBY', KEYS[3], size)
redis.call('HINCRBY', pace, 'items', ARGV[2])
return entry
"""
)

REMOVE: Final = """
local function remove(stream, bytes, entry)
  local found = redis.call('XRANGE', stream, entry, entry)[1]
  redis.call('DEL', stream .. ':' .. entry)
  if not found then return 0 end
  redis.call('XDEL', stream, entry)
  redis.call('DECRBY', bytes, found[2][2])
  -- Not `-items`: that of none is "-0", which the HINCRBY of Redis 7.0 refuses.
  local items = tonumber(found[2][4])
  redis.call('HINCRBY', stream .. ':pace', 'items', 0 - items)
  return items
end
"""

# KEYS stream, bytes, replies, apis · ARGV entry, reply, api, api ms, ms it took
ANSWER: Final = (
    NOW
    + REMOVE
    + """
if redis.call('XACK', KEYS[1], 'workers', ARGV[1]) == 0 then return 0 end
local items = remove(KEYS[1], KEYS[2], ARGV[1])
if tonumber(ARGV[5]) > 0 and items > 0 then
  local pace, ms = KEYS[1] .. ':pace', ARGV[5] / items
  local known = tonumber(redis.call('HGET', pace, 'ms') or ms)
  redis.call('HSET', pace, 'ms', known + 0.1 * (ms - known))
end
local seen = ARGV[3] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[3])
if seen and tonumber(seen) > now - ARGV[4] then redis.call('RPUSH', KEYS[3], ARGV[2]) end
return 1
"""
)

# KEYS stream, bytes · ARGV entry
CANCEL: Final = (
    REMOVE
    + """
if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1) > 0 then return 0 end
if #redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 0 end
remove(KEYS[1], KEYS[2], ARGV[1])
return 1
"""
)

# KEYS jobs · only streams that hold something
SURVEY: Final = (
    NOW
    + GROUP_STATE
    + """
local found, all = {}, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local stream = KEYS[1] .. ':' .. all[i]
  local held = redis.call('XLEN', stream)
  if held > 0 then
    local first = first_waiting(stream)
    local pending = state(stream)['pending'] or 0
    found[#found + 1] = {all[i], all[i + 1], held, pending, first and age(first) or -1}
  end
end
return found
"""
)

# KEYS jobs · ARGV entry id: does anyone wait for what was admitted up to it?
# What was asked for by no caller has no inputs of its own: the steps of drafts.
UNSETTLED: Final = """
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
  for _, found in ipairs(redis.call('XRANGE', KEYS[1] .. ':' .. name, '-', ARGV[1])) do
    if found[2][4] ~= '0' then return 1 end
  end
end
return 0
"""


class AdmissionLimits(NamedTuple):
    """How much may wait for one encoder.

    Attributes:
        jobs: Jobs that its stream may hold.
        bytes: Bytes that the jobs of all streams may hold.
        wait_ms: How long the first job in line may have waited, and the last one will have to.
        workers: Workers that share the work.
    """

    jobs: int
    bytes: int
    wait_ms: int
    workers: int


class StreamBacklog(NamedTuple):
    """What one stream holds.

    Attributes:
        model: Name of the encoder's model; empty for upkeep.
        held: Jobs that wait or are being worked on.
        running: Those that a worker has.
        waited_ms: Milliseconds that the first of the others has waited; None if none waits.
    """

    model: str
    held: int
    running: int
    waited_ms: int | None


def stream_key(name: str) -> str:
    """The key of a stream."""
    return f"{JOBS}:{name}"


def job_key(name: str, entry: str) -> str:
    """The key of the job behind an entry of a stream."""
    return f"{JOBS}:{name}:{entry}"


def replies_key(api: str) -> str:
    """The key of an API process's replies."""
    return f"{REPLIES}:{api}"


def new_id() -> str:
    """A name that no other process or job has."""
    return uuid.uuid4().hex


def admit(
    server: RedisClient,
    job: Job,
    data: bytes,
    items: int,
    *,
    timeout_ms: int,
    limits: AdmissionLimits | None = None,
) -> str:
    """Put a job into its stream, if there is room for it.

    Args:
        server: The queue server.
        job: The job.
        data: The packed job.
        items: How many inputs it has.
        timeout_ms: Milliseconds, by the server's clock, after which nobody wants the answer.
        limits: How much may wait; None for no limits.

    Returns:
        The entry's id in the stream.

    Raises:
        QueueFullError: If there is no room.
        QueueUnavailableError: If the server is away.
    """
    keys = (stream_key(job.stream), JOBS, BYTES, APIS)
    model = job.encoder.model if job.encoder else ""
    limits = limits or AdmissionLimits(0, 0, 0, 1)
    arguments: tuple[Any, ...] = (
        *(data, items, job.stream, model),
        *limits,
        *(timeout_ms, job.reply_to or ""),
    )
    told = str(server.run_script(ADMIT, keys, *arguments).decode())
    match told:
        case "full-jobs":
            raise QueueFullError(
                f"{limits.jobs} jobs (max_queue_jobs) wait for this encoder already"
            )
        case "full-bytes":
            told = f"queued jobs hold close to {limits.bytes} bytes (max_queue_bytes)"
            raise QueueFullError(told, code=ErrorCode.QUEUE_BYTES_FULL)
        case "full-age":
            raise QueueFullError(
                "the first job in line for this encoder has waited longer than "
                f"{limits.wait_ms} ms (max_queue_wait_seconds)"
            )
        case "full-wait":
            raise QueueFullError(
                "what waits for this encoder will take longer than "
                f"{limits.wait_ms} ms (max_queue_wait_seconds)"
            )
    return told


def cancel(server: RedisClient, job: Job, entry: str) -> bool:
    """Take a job out of its stream; False if a worker has it, or had it, already.

    Raises:
        QueueUnavailableError: If the server is away.
    """
    return bool(server.run_script(CANCEL, (stream_key(job.stream), BYTES), entry))


def stream_backlogs(server: RedisClient) -> dict[str, StreamBacklog]:
    """What waits, by the name of its stream; streams that hold nothing are left out."""
    return {
        name.decode(): StreamBacklog(model.decode(), held, running, None if waited < 0 else waited)
        for name, model, held, running, waited in server.run_script(SURVEY, (JOBS,))
    }


def queued_bytes(server: RedisClient) -> int:
    """Bytes that queued jobs hold in all."""
    with server.session() as client:
        found: Any = client.get(BYTES)
    return int(found or 0)


def has_unanswered(server: RedisClient, before_ms: int) -> bool:
    """Whether a job that was admitted by this time, on the server's clock, is not answered yet."""
    return bool(server.run_script(UNSETTLED, (JOBS,), before_ms))


def enqueue_registration(server: RedisClient, registration: Registration) -> None:
    """Ask the workers to take a draft one step further; asked twice at once, they are told once.

    Raises:
        QueueUnavailableError: If the server is away; the draft is picked up later all the same.
    """
    job = registration_job(registration)
    with server.session() as client:
        first = client.set(
            f"{PREFIX}enqueued:{job.id}:{registration.done}", b"", nx=True, ex=NUDGE_SECONDS
        )
    if first:
        admit(server, job, job.pack(), 0, timeout_ms=24 * 3600 * 1000)
