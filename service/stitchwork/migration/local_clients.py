"""Clients of databases in folders and files, each of which one client of a process may open."""

from collections.abc import Callable
from typing import Generic, TypeVar

C = TypeVar("C")


class LocalClients(Generic[C]):
    """The clients that stores of this process share, by the paths of their databases.

    Args:
        open_client: Opens the client of a path.
        close_client: Closes it; called with the path and the client.
    """

    def __init__(
        self, open_client: Callable[[str], C], close_client: Callable[[str, C], None]
    ) -> None:
        self._open, self._close = open_client, close_client
        self._clients: dict[str, tuple[C, int]] = {}

    def acquire(self, path: str) -> C:
        """The client of a path, for one more store."""
        client, users = self._clients.get(path) or (self._open(path), 0)
        self._clients[path] = (client, users + 1)
        return client

    def release(self, path: str) -> None:
        """Note that a store no longer uses the client of a path; that of the last one is closed."""
        client, users = self._clients.pop(path)
        if users > 1:
            self._clients[path] = (client, users - 1)
        else:
            self._close(path, client)
