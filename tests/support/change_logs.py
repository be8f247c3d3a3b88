"""Change logs of new registries, begun as the supervisor begins them."""

from contextlib import closing
from uuid import uuid4

from stitchwork.errors import RegistryUnavailableError
from stitchwork.redis.client import RedisClient
from stitchwork.registry.change_log_start import BEGIN, KEYS
from tests.support import machine


def begin_change_log(server: RedisClient) -> None:
    """Let the first registrations of a new registry not wait for processes of earlier ones."""
    server.run_script(BEGIN, tuple(map(server.key, KEYS)), uuid4().hex)


def begin_change_log_at(url: str) -> None:
    """The same for the registry at an address."""
    with closing(RedisClient(url, machine.deadline(5.0), RegistryUnavailableError)) as server:
        begin_change_log(server)
