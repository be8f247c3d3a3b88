"""From a URL to a client: one server, by TCP, TLS or a socket, or a master that Sentinel names.

    redis://[user:password@]host:port/db          rediss://… with TLS
    unix://path/to/socket
    sentinel://[user:password@]host:port,host:port/service-name?db=0      sentinels://… with TLS

Query options are those of redis-py, such as `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile`; what
begins with `sentinel_`, such as `sentinel_password`, is for the sentinels alone.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.exceptions import ConnectionError as ServerGone
from redis.retry import Retry
from redis.sentinel import Sentinel

SENTINEL_PORT: Final = 26_379
OF_SENTINELS: Final = "sentinel_"


def connect(url: str, timeout: float) -> redis.Redis:
    """A client for the server of a URL; it connects when it is first used.

    Args:
        url: One of the forms above.
        timeout: Seconds that connecting, and one call, may take.

    Returns:
        A client that tries once more where a pooled connection had been closed, and never after
        a timeout: a silent server is not asked twice.

    Raises:
        ValueError: If the URL names no host or no service, or has options that are unknown.
    """
    bounds: dict[str, Any] = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 1, supported_errors=(ServerGone,)),
    }
    if not url.startswith(("sentinel://", "sentinels://")):
        return redis.Redis.from_url(url, protocol=2, **bounds)
    hosts, service, options = _sentinels(url)
    own = {
        name.removeprefix(OF_SENTINELS): value
        for name, value in options.items()
        if name.startswith(OF_SENTINELS)
    }
    shared = {name: value for name, value in options.items() if not name.startswith(OF_SENTINELS)}
    tls = {name: value for name, value in shared.items() if name.startswith("ssl")}
    sentinel = Sentinel(hosts, sentinel_kwargs={**bounds, **tls, **own}, **bounds)  # type: ignore[no-untyped-call]
    found: redis.Redis = sentinel.master_for(service, protocol=2, **shared)  # type: ignore[no-untyped-call]
    return found


def check_url(url: str) -> None:
    """Refuse a URL that no client can be made of.

    Raises:
        ValueError: Says what was expected; it repeats nothing of the URL, which may hold secrets.
    """
    schemes = ("redis", "rediss", "unix", "sentinel", "sentinels")
    if urlsplit(url).scheme not in schemes:
        expected = ", ".join(f"{scheme}://" for scheme in schemes)
        raise ValueError(f"expected a URL that starts with one of {expected}")
    if url.startswith("sentinel"):
        _sentinels(url)


def without_secrets(url: str) -> str:
    """The URL for people to read: passwords, wherever they stand in it, are left out."""
    parts = urlsplit(url)
    netloc = parts.netloc
    if "@" in netloc:
        name, _, place = netloc.rpartition("@")
        netloc = f"{name.split(':')[0]}:***@{place}" if ":" in name else netloc
    query = [
        (name, "***" if "password" in name else value)
        for name, value in parse_qsl(parts.query, keep_blank_values=True)
    ]
    return urlunsplit(parts._replace(netloc=netloc, query=urlencode(query, safe="*/")))


def why(error: BaseException) -> str:
    """What lies behind a failed connection where it is worth saying, as the rest of a sentence."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ssl.SSLError):
            return f": TLS failed, {getattr(seen, 'verify_message', '') or seen.reason}"
        seen = seen.__cause__ or seen.__context__
    return ""


def _sentinels(url: str) -> tuple[list[tuple[str, int]], str, Mapping[str, Any]]:
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    service = parts.path.strip("/")
    form = "sentinel://[user:password@]host:port,host:port/service-name"
    if not places or not service or "/" in service:
        raise ValueError(f"expected {form}")
    hosts = []
    for place in places.split(","):
        host, colon, port = place.rpartition(":")
        if not colon or place.endswith("]"):
            host, port = place, str(SENTINEL_PORT)
        if not host or not port.isdecimal():
            raise ValueError(f"expected {form}")
        hosts.append((host.strip("[]"), int(port)))
    # What redis-py understands in a URL of one server is understood here in the same way.
    scheme = "rediss" if parts.scheme == "sentinels" else "redis"
    plain = (
        f"{scheme}://{login}@host/?{parts.query}" if login else f"{scheme}://host/?{parts.query}"
    )
    options = dict(parse_url(plain))  # type: ignore[no-untyped-call]
    for name in ("host", "port", "connection_class"):
        options.pop(name, None)
    if scheme == "rediss":
        options["ssl"] = True
    return hosts, service, options
