"""The queue server's keys and the scripts that keep them consistent.

jobs                 set of streams that exist
jobs:{encoder}       stream of one encoder's jobs, with the consumer group `workers`
bytes                bytes that queued jobs hold in all
replies:{api}        list of one API process's replies; no lifetime, so that it is not evictable
apis, workers        sorted sets of living processes by the server's time, in milliseconds
dead                 stream of jobs that were delivered too often
"""

import uuid
from typing import Any, Final

from service.errors import NoWorker, QueueFull
from service.queue.jobs import Job, upkeep
from service.records import Draft
from service.store.server import PREFIX, Server

GROUP: Final = "workers"
JOBS: Final = PREFIX + "jobs"
BYTES: Final = PREFIX + "bytes"
REPLIES: Final = PREFIX + "replies"
APIS: Final = PREFIX + "apis"
WORKERS: Final = PREFIX + "workers"
DEAD: Final = PREFIX + "dead"
NUDGE_SECONDS: Final = 5
GONE_MS: Final = 60_000
"""An API process that was silent this long gets no more replies."""
FORGOTTEN_MS: Final = 3_600_000

_NOW: Final = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

# KEYS stream, jobs, bytes, workers, apis
# ARGV job, stream name, most jobs, most bytes, ms, worker ms, api
ADMIT: Final = (
    _NOW
    + """
if tonumber(ARGV[6]) > 0 and redis.call('ZCOUNT', KEYS[4], now - ARGV[6], '+inf') == 0 then
  return 'no-worker'
end
if tonumber(ARGV[3]) > 0 then
  local waiting = redis.call('XLEN', KEYS[1])
  if waiting >= tonumber(ARGV[3]) then return 'full-jobs' end
  local held = tonumber(redis.call('GET', KEYS[3]) or '0')
  if held + #ARGV[1] > tonumber(ARGV[4]) then return 'full-bytes' end
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0', 'MKSTREAM')
end
redis.call('SADD', KEYS[2], ARGV[2])
redis.call('INCRBY', KEYS[3], #ARGV[1])
if ARGV[7] ~= '' then redis.call('ZADD', KEYS[5], now, ARGV[7]) end
return redis.call('XADD', KEYS[1], '*', 'job', ARGV[1], 'deadline', now + ARGV[5])
"""
)

# KEYS stream, bytes, replies, apis · ARGV entry, size, reply, api, api ms
ANSWER: Final = (
    _NOW
    + """
if redis.call('XACK', KEYS[1], 'workers', ARGV[1]) == 0 then return 0 end
redis.call('XDEL', KEYS[1], ARGV[1])
redis.call('DECRBY', KEYS[2], ARGV[2])
local seen = ARGV[4] ~= '' and redis.call('ZSCORE', KEYS[4], ARGV[4])
if seen and tonumber(seen) > now - ARGV[5] then redis.call('RPUSH', KEYS[3], ARGV[3]) end
return 1
"""
)

# KEYS stream · ARGV worker, entries
# What another worker has claimed meanwhile is left to it: asked and claimed in one step.
RENEW: Final = """
for i = 2, #ARGV do
  if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[i], ARGV[i], 1, ARGV[1]) > 0 then
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, ARGV[i], 'JUSTID')
  end
end
return 1
"""

# KEYS stream, bytes · ARGV entry, size
CANCEL: Final = """
if #redis.call('XPENDING', KEYS[1], 'workers', ARGV[1], ARGV[1], 1) > 0 then return 0 end
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DECRBY', KEYS[2], ARGV[2])
return 1
"""

# KEYS set of processes · ARGV process
BEAT: Final = (
    _NOW
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
return redis.call('ZADD', KEYS[1], now, ARGV[1])
"""
)


def stream_key(name: str) -> str:
    """The key of a stream."""
    return f"{JOBS}:{name}"


def replies_key(api: str) -> str:
    """The key of an API process's replies."""
    return f"{REPLIES}:{api}"


def new_id() -> str:
    """A name that no other process or job has."""
    return uuid.uuid4().hex


def admit(
    server: Server,
    job: Job,
    data: bytes,
    *,
    timeout_ms: int,
    most_jobs: int = 0,
    most_bytes: int = 0,
    worker_ttl_ms: int = 0,
) -> str:
    """Put a job into its stream, if there is room for it and someone to do it.

    Args:
        server: The queue server.
        job: The job.
        data: The packed job.
        timeout_ms: Milliseconds, by the server's clock, after which nobody wants the answer.
        most_jobs: Jobs that may wait in this stream; 0 asks for no room.
        most_bytes: Bytes that all queued jobs may hold.
        worker_ttl_ms: Silence after which a worker counts as gone; 0 asks for no worker.

    Returns:
        The entry's id in the stream.

    Raises:
        QueueFull: If there is no room.
        NoWorker: If no worker is alive.
        QueueUnavailable: If the server is away.
    """
    keys = (stream_key(job.stream), JOBS, BYTES, WORKERS, APIS)
    arguments: tuple[Any, ...] = (
        data,
        job.stream,
        most_jobs,
        most_bytes,
        timeout_ms,
        worker_ttl_ms,
        job.reply_to or "",
    )
    with server.guard() as client:
        answer: Any = client.eval(ADMIT, len(keys), *keys, *arguments)
    told = str(answer.decode())
    if told == "no-worker":
        raise NoWorker("no live worker takes this work")
    if told == "full-jobs":
        raise QueueFull(f"{most_jobs} jobs wait for this encoder already")
    if told == "full-bytes":
        raise QueueFull(f"queued jobs hold close to {most_bytes} bytes already")
    return told


def cancel(server: Server, job: Job, entry: str, size: int) -> bool:
    """Take a job out of its stream; False if a worker has it, or had it, already.

    Raises:
        QueueUnavailable: If the server is away.
    """
    keys = (stream_key(job.stream), BYTES)
    with server.guard() as client:
        return bool(client.eval(CANCEL, len(keys), *keys, entry, size))


def nudge(server: Server, draft: Draft) -> None:
    """Ask the workers to take a draft one step further; asked twice at once, they are told once.

    Raises:
        QueueUnavailable: If the server is away; the draft is picked up later all the same.
    """
    job = upkeep(draft)
    with server.guard() as client:
        first = client.set(f"{PREFIX}nudged:{job.id}:{draft.done}", b"", nx=True, ex=NUDGE_SECONDS)
    if first:
        admit(server, job, job.pack(), timeout_ms=24 * 3600 * 1000)


def beat(server: Server, processes: str, name: str) -> None:
    """Say that a process is alive, by the server's clock."""
    with server.guard() as client:
        client.eval(BEAT, 1, processes, name, FORGOTTEN_MS)


def alive(server: Server, processes: str, seconds: float) -> list[str]:
    """The processes that were heard of in the last seconds, by the server's clock."""
    since = server.now_ms() - int(seconds * 1000)
    with server.guard() as client:
        found: Any = client.zrangebyscore(processes, since, "+inf")
    return [raw.decode() for raw in found]
