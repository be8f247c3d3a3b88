"""Connections to servers of Milvus and to databases of Milvus Lite."""

import os
import socket
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

from milvus_lite.server_manager import server_manager_instance
from pymilvus import MilvusClient
from pymilvus.exceptions import MilvusException, MilvusUnavailableException

from stitchwork.errors import InvalidInputError, UnavailableError
from stitchwork.migration.local_clients import LocalClients

CONNECT_SECONDS: Final = 30.0
SCHEMES: Final = ("http", "https", "tcp")
"""Of the URLs that pymilvus reads."""
PORT: Final = 19_530
"""Where an address has none."""


class LocalDatabase(NamedTuple):
    """A database of Milvus Lite that is open.

    Attributes:
        client: Its client.
        is_shared: Whether other clients of this process have opened it before.
    """

    client: MilvusClient
    is_shared: bool

    @classmethod
    def open(cls, path: str) -> Self:
        """Open the database of a path; pymilvus starts a server in this process."""
        is_shared = path in server_manager_instance._servers
        return cls(MilvusClient(path), is_shared)

    def close(self, path: str) -> None:
        """Close the client, and stop its server, which pymilvus would leave running."""
        self.client.close()
        if not self.is_shared:
            server_manager_instance.release_server(path)


DATABASES: Final = LocalClients[LocalDatabase](
    LocalDatabase.open, lambda path, database: database.close(path)
)


def connect_server(address: str, name: str) -> MilvusClient:
    """A client of a server.

    Args:
        address: Its URL.
        name: What messages call it.

    Raises:
        UnavailableError: If nothing listens there: pymilvus would try until its time is up.
        InvalidInputError: If pymilvus refuses the address.
    """
    url = urlsplit(address)
    port = url.port or (443 if url.scheme == "https" else PORT)
    try:
        socket.create_connection((url.hostname or "", port), CONNECT_SECONDS).close()
    except OSError as error:
        raise UnavailableError(f"{name}: {error}") from error
    token = os.environ.get("MILVUS_TOKEN", "")
    try:
        return MilvusClient(address, token=token, timeout=CONNECT_SECONDS)
    except MilvusUnavailableException as error:
        raise UnavailableError(_message(error, address, name)) from error
    except MilvusException as error:
        raise InvalidInputError(_message(error, address, name)) from error


def _message(error: MilvusException, address: str, name: str) -> str:
    """The message of an error without the address, which may have a password."""
    return f"{name}: {error.message.replace(address, name)}"
