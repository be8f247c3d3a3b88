"""Redis-protocol servers: clients, URLs, serialization, rate limits."""
