"""A PostgreSQL server with pgvector, of the package pgserver."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of a new server; it has the extension vector, and is stopped at the end."""
    # Another user runs the server if this one is root, and must reach its folder.
    with tempfile.TemporaryDirectory(prefix="pg") as folder:
        with warnings.catch_warnings():
            # Where XDG_RUNTIME_DIR is not set, its locks are in another folder.
            warnings.simplefilter("ignore")
            from pgserver.postgres_server import get_server

        server = get_server(f"{folder}/data", cleanup_mode="stop")
        try:
            with psycopg.connect(server.get_uri()) as connection:
                connection.execute("CREATE EXTENSION vector")
            yield server.get_uri()
        finally:
            server.cleanup()
