"""Which processes live, what each worker says about itself, and what the dead left behind."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from pydantic import ValidationError

from stitchwork.errors import UnavailableError
from stitchwork.queue import streams
from stitchwork.queue.streams import ANNOUNCED, APIS, JOBS, NOW, WORKERS
from stitchwork.redis.client import PREFIX, RedisClient
from stitchwork.resources import EncoderSpec, Record

log = logging.getLogger(__name__)

FORGOTTEN_MS: Final = 3_600_000
"""Silence after which nothing is left of a process."""
IDLE_STREAM_MS: Final = 3_600_000
SWEEP_SECONDS: Final = 30

# A script that has written something may write on although the server has no memory left. So these
# two begin with a removal of nothing: who lives must be known above all when memory is short.

# KEYS workers, announced · ARGV worker, announcement
BEAT: Final = (
    NOW
    + """
redis.call('ZREM', KEYS[1], '')
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return redis.call('ZADD', KEYS[1], now, ARGV[1])
"""
)

# KEYS workers, announced, apis · ARGV ms, api that looks, if one does
LOOK: Final = (
    NOW
    + """
if ARGV[2] ~= '' then
  redis.call('ZREM', KEYS[3], '')
  redis.call('ZADD', KEYS[3], now, ARGV[2])
end
local names = redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[1], '+inf')
if #names == 0 then return {} end
return redis.call('HMGET', KEYS[2], unpack(names))
"""
)

# KEYS workers, announced, apis, jobs · ARGV replies prefix, ms for processes, ms for streams
SWEEP: Final = (
    NOW
    + """
local swept = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])) do
  redis.call('ZREM', KEYS[1], name)
  redis.call('HDEL', KEYS[2], name)
  swept = swept + 1
end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now - ARGV[2])) do
  redis.call('ZREM', KEYS[3], name)
  redis.call('DEL', ARGV[1] .. ':' .. name)
  swept = swept + 1
end
for _, name in ipairs(redis.call('HKEYS', KEYS[4])) do
  local stream = KEYS[4] .. ':' .. name
  if redis.call('XLEN', stream) == 0 then
    local told = redis.call('XINFO', 'STREAM', stream)
    local last = '0'
    for i = 1, #told, 2 do if told[i] == 'last-generated-id' then last = told[i + 1] end end
    if now - tonumber(string.match(last, '^%d+')) > tonumber(ARGV[3]) then
      redis.call('DEL', stream, stream .. ':pace')
      redis.call('HDEL', KEYS[4], name)
      swept = swept + 1
    end
  else
    for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', stream, 'workers')) do
      local found = {}
      for i = 1, #consumer, 2 do found[consumer[i]] = consumer[i + 1] end
      if found['pending'] == 0 and found['idle'] > tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', stream, 'workers', found['name'])
        swept = swept + 1
      end
    end
  end
end
return swept
"""
)


class WorkerStatus(Record):
    """What a worker says about itself.

    Attributes:
        worker: Its name, which starts with that of its host.
        device: Where its models run.
        serves: Patterns of the models that it takes work for.
        loaded: Keys of the encoders it has loaded.
        model_bytes: Memory that these hold.
        refused: Spaces that it cannot serve as they are registered, and why.
    """

    worker: str
    device: str = "cpu"
    serves: tuple[str, ...] = ("*",)
    loaded: tuple[str, ...] = ()
    model_bytes: int = 0
    refused: Mapping[str, str] = {}

    def takes(self, model: str) -> bool:
        """Whether it takes work for this model; every worker does upkeep, whose model is empty."""
        return not model or any(fnmatchcase(model, pattern) for pattern in self.serves)


def live_workers(server: RedisClient, seconds: float, api: str = "") -> list[WorkerStatus]:
    """The workers that were heard of in the last seconds, by the server's clock.

    Args:
        server: The queue server.
        seconds: Seconds of silence after which a worker counts as gone.
        api: The API process that asks, which by asking says that it lives.
    """
    announced = []
    for raw in server.run_script(LOOK, (WORKERS, ANNOUNCED, APIS), int(seconds * 1000), api):
        try:
            announced.append(WorkerStatus.model_validate_json(raw or b""))
        except ValidationError:
            log.warning("worker ignored", extra={"reason": "it belongs to another version"})
    return announced


def count_accepting(workers: Sequence[WorkerStatus], encoder: EncoderSpec) -> int:
    """How many of the workers take work for this encoder."""
    return sum(worker.takes(encoder.model) for worker in workers)


def remove_expired(server: RedisClient) -> int:
    """Clear away what dead processes and unused encoders left; one process at a time does it.

    Returns:
        How many processes, streams and consumers are gone now.
    """
    arguments = (streams.REPLIES, FORGOTTEN_MS, IDLE_STREAM_MS)
    with server.session() as client:
        if not client.set(f"{PREFIX}swept", b"", nx=True, ex=SWEEP_SECONDS):
            return 0
    return int(server.run_script(SWEEP, (WORKERS, ANNOUNCED, APIS, JOBS), *arguments))


class Heartbeat:
    """Says again and again that a worker lives, from a thread of its own.

    Args:
        server: The queue server.
        ttl: Seconds of silence after which the worker counts as gone.
        describe: Gives what the worker says.
    """

    def __init__(
        self, server: RedisClient, ttl: float, describe: Callable[[], WorkerStatus]
    ) -> None:
        self._server = server
        self._ttl = ttl
        self._describe = describe
        self._others: frozenset[str] = frozenset()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="presence", daemon=True)

    def start(self) -> None:
        """Begin; the first word is said before this returns, if the server is there."""
        self._say()
        self._thread.start()

    def is_loaded_elsewhere(self, encoder: str) -> bool:
        """Whether another live worker had this encoder loaded when it was last looked."""
        return encoder in self._others

    def stop(self) -> None:
        """Say that the worker is gone."""
        self._stopping.set()
        self._thread.join()
        self.deregister()

    def deregister(self) -> None:
        """Take the worker off the list of the living."""
        name = self._describe().worker
        try:
            with self._server.session() as client:
                client.zrem(WORKERS, name)
                client.hdel(ANNOUNCED, name)
        except UnavailableError:
            log.warning(
                "server unavailable",
                extra={
                    "server": "queue",
                    "effect": "the entry of this worker is removed when it expires",
                },
            )

    def _run(self) -> None:
        while not self._stopping.wait(self._ttl / 4):
            self._say()

    def _say(self) -> None:
        said = self._describe()
        try:
            self._server.run_script(BEAT, (WORKERS, ANNOUNCED), said.worker, said.model_dump_json())
            found = live_workers(self._server, self._ttl)
            others = [other for other in found if other.worker != said.worker]
            self._others = frozenset(key for other in others for key in other.loaded)
        except UnavailableError as error:
            log.warning("server unavailable", extra={"server": "queue", "reason": error.message})
