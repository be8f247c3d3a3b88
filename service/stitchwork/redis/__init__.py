"""Redis-protocol servers: clients, URLs, serialization, rate limits."""

from typing import Final

PREFIX: Final = "stitchwork:"
"""What the names of all keys begin with."""
