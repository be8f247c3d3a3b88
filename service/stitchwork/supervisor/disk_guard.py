"""Keeps the embedded registry alive on a full disk.

A server that syncs its append-only file after every write ends if the disk is full. One that syncs
every second refuses writes, with the disk's error, and goes on serving reads. So near the end of
the disk the registry syncs every second; a registration is still acknowledged only once it is on
disk, which then takes up to a second.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from stitchwork.supervisor import embedded_servers

INTERVAL_SECONDS: Final = 1.0
LOW_BYTES: Final = 512 * 1024 * 1024
"""Free space below which the policy changes: more than can be written between two checks."""


class DiskGuard:
    """Sets how the registry syncs, by the free space of its disk.

    Args:
        folder: The data directory.
        socket: The registry's socket.
        log: Called with a sentence for the user.
        low_bytes: Free space below which the registry syncs every second.
    """

    def __init__(
        self,
        folder: Path,
        socket: Path,
        log: Callable[[str], None],
        *,
        low_bytes: int = LOW_BYTES,
    ) -> None:
        self._folder = folder
        self._socket = socket
        self._log = log
        self._low_bytes = low_bytes
        self._is_low = False

    def check(self) -> None:
        """Look at the disk, and change the policy if need be.

        The server is told again each time while space is low, since it may have been restarted.
        """
        free = shutil.disk_usage(self._folder).free
        was_low = self._is_low
        # Back at twice the bound, so that it does not change with each write.
        self._is_low = free < self._low_bytes * (2 if was_low else 1)
        if not (self._is_low or was_low):
            return
        policy = "everysec" if self._is_low else "always"
        embedded_servers.send_command(self._socket, "CONFIG", "SET", "appendfsync", policy)
        if self._is_low != was_low:
            effect = "registrations take up to a second longer" if self._is_low else "all as before"
            self._log(f"{free >> 20} MB are free on the disk of {self._folder}: {effect}")
