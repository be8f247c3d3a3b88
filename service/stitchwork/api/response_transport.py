"""The headers and the body of a response in one write.

Each write is a system call, and a packet that wakes the client.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ResponseTransport:
    """The transport of one response, which holds its headers until they can go with its body.

    Args:
        transport: The connection's.
        loop: The event loop, in whose next iteration headers without a body are written.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._headers = b""
        self._has_written = False

    def write(self, data: bytes | memoryview) -> None:
        """Write a part of the response; the first one is held.

        Nothing is written to a client that has left: uvloop raises an error, and of pipelined
        requests uvicorn marks only the newest as disconnected.
        """
        if self._transport.is_closing():
            return
        if not self._has_written:
            self._has_written = True
            self._headers = bytes(data)
            self._loop.call_soon(self.flush)
        elif self._headers:
            headers, self._headers = self._headers, b""
            self._transport.writelines((headers, data))
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Write headers that are still held."""
        if self._headers and not self._transport.is_closing():
            headers, self._headers = self._headers, b""
            self._transport.write(headers)

    def close(self) -> None:
        """Close the connection once everything is written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closing."""
        return self._transport.is_closing()


def write_at_once(protocol: HttpToolsProtocol) -> None:
    """Let the headers of the newest request's response be written together with its body.

    Sets the undocumented `transport` of uvicorn's cycle, which it writes and closes and no more.
    """
    cycle: Any = protocol.cycle
    cycle.transport = ResponseTransport(protocol.transport, protocol.loop)
