"""The names of the queue server's keys.

All keys of a shard have its hash tag, so that a script may use several of them on a cluster. The
shards are `{q0}`, `{q1}` and so on; the keys of each, after that tag:

encoders                      hash of the encoders that have streams: encoder → classes:model
jobs:{encoder}:{class}        stream of the jobs of one encoder and class of callers, with the
                              consumer group `workers`
pace:{encoder}                hash: the ms that a unit of cost takes, and of all work; and of each
                              class of callers the jobs in its stream, their cost, and the weight
                              of the callers; has a lifetime while there are no streams
callers:{encoder}             hash of the callers that have jobs: their class, weight, jobs, inputs
                              and bytes
credits:{encoder}             hash: the cost that each class of callers is still owed, and the next
payload:{job}                 a job that is too large for its entry
bytes                         bytes of all queued jobs
replies:{api}                 list of the replies to one API process; no lifetime, since under
                              `volatile-lru` a key with a lifetime may be evicted
apis, workers                 sorted sets of live processes by the server's time, in milliseconds
starting                      the same of workers that are starting
announced                     hash of the status of each worker
enqueued:{job}:{step}         a registration step was enqueued a moment ago
swept                         what dead processes left was removed a moment ago
dead, dead-jobs               stream of dead letters, and hash of their jobs
"""

from typing import Final, NamedTuple

from stitchwork.redis import PREFIX
from stitchwork.redis.connections import QUEUE_TAGS

GROUP: Final = "workers"


class ShardKeys(NamedTuple):
    """The keys of one shard.

    Attributes:
        number: Its number.
    """

    number: int = 0

    @property
    def encoders(self) -> str:
        """The key of the encoders that have streams."""
        return self._key("encoders")

    @property
    def bytes(self) -> str:
        """The key of the size of all queued jobs."""
        return self._key("bytes")

    @property
    def apis(self) -> str:
        """The key of the live API processes."""
        return self._key("apis")

    @property
    def workers(self) -> str:
        """The key of the live workers."""
        return self._key("workers")

    @property
    def starting(self) -> str:
        """The key of the workers that are starting."""
        return self._key("starting")

    @property
    def announced(self) -> str:
        """The key of the workers' statuses."""
        return self._key("announced")

    @property
    def swept(self) -> str:
        """The key that exists for a while after what dead processes left was removed."""
        return self._key("swept")

    @property
    def dead(self) -> tuple[str, str]:
        """The keys of the dead letters and of their jobs."""
        return self._key("dead"), self._key("dead-jobs")

    def stream(self, name: str) -> str:
        """The key of a stream, named `encoder:class`."""
        return self._key(f"jobs:{name}")

    def pace(self, encoder: str) -> str:
        """The key of how fast an encoder's jobs are done."""
        return self._key(f"pace:{encoder}")

    def callers(self, encoder: str) -> str:
        """The key of the callers that have jobs of an encoder."""
        return self._key(f"callers:{encoder}")

    def credits(self, encoder: str) -> str:
        """The key of what each class of an encoder's callers is owed."""
        return self._key(f"credits:{encoder}")

    def payload(self, job: str) -> str:
        """The key of a job that is too large for its entry."""
        return self._key(f"payload:{job}")

    def replies(self, api: str) -> str:
        """The key of an API process's replies."""
        return self._key(f"replies:{api}")

    def enqueued(self, job: str, step: int) -> str:
        """The key that exists for a while after a registration step was enqueued."""
        return self._key(f"enqueued:{job}:{step}")

    def _key(self, name: str) -> str:
        return f"{PREFIX}{{{QUEUE_TAGS[self.number]}}}:{name}"


def stream_name(encoder: str, caller_class: int = 0) -> str:
    """The name of a stream."""
    return f"{encoder}:{caller_class}"


def encoder_of_stream(name: str) -> str:
    """The encoder that a stream belongs to."""
    return name.rpartition(":")[0]


def class_of_stream(name: str) -> int:
    """The class of callers that a stream belongs to."""
    return int(name.rpartition(":")[2])
