"""URLs of Redis-protocol servers: validation, and display without secrets.

    redis://[user:password@]host[:6379][/db]      one server, over TCP
    rediss://...                                  the same, over TLS
    unix://[user:password@]/path/of/socket        one server, on a socket
    sentinel://[user:password@]host[:26379],host[:26379]/service-name
    sentinels://...                               the same, over TLS to sentinels and servers
    cluster://[user:password@]host[:6379],host[:6379]   nodes of a cluster, which name the others
    clusters://...                                the same, over TLS

Options follow a `?`. No function opens a connection, and no error repeats its input.
"""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

SCHEMES: Final = ("redis", "rediss", "unix", "sentinel", "sentinels", "cluster", "clusters")
SENTINEL_PORT: Final = 26379

_SHARED_OPTIONS = ("db", "username", "client_name", "health_check_interval", "socket_keepalive")
_TLS_FILES = ("ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile")
_TLS_CHECKS = ("ssl_cert_reqs", "ssl_check_hostname")
_SENTINEL_OPTIONS = ("sentinel_username",)
_PUBLIC_OPTIONS: Final = frozenset(
    (*_SHARED_OPTIONS, *_TLS_FILES, *_TLS_CHECKS, *_SENTINEL_OPTIONS)
)


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """The parts of a URL of a service behind sentinels.

    Attributes:
        addresses: Host and port of each sentinel.
        service: The name by which they know the master.
        server_url: A `redis://` or `rediss://` URL with user, password and options of the
            servers; its host means nothing, since sentinels name the master.
        sentinel_username: User of the sentinels themselves.
        sentinel_password: Their password.
    """

    addresses: tuple[tuple[str, int], ...]
    service: str
    server_url: str
    sentinel_username: str | None
    sentinel_password: str | None


@dataclass(frozen=True, slots=True)
class ClusterUrl:
    """The parts of a URL of a cluster.

    Attributes:
        addresses: Host and port of nodes that name the others.
        server_url: A `redis://` or `rediss://` URL with user, password and options of all nodes;
            its host means nothing, since the nodes name the one that has the keys.
    """

    addresses: tuple[tuple[str, int], ...]
    server_url: str


def parse_sentinel_url(url: str) -> SentinelUrl | None:
    """The parts of a sentinel URL, or None for a URL that names one server.

    Raises:
        ValueError: If a host or the service name is missing, or a port is not a port number.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("sentinel", "sentinels"):
        return None
    rest, _, query = rest.partition("?")
    rest, _, service = rest.partition("/")
    credentials, at, addresses = rest.rpartition("@")
    if not service or "/" in service:
        raise ValueError(f"{_expected_form(scheme)}: one service name must follow the hosts")
    options = dict(parse_qsl(query))
    own = {name: options.pop(name, None) for name in ("sentinel_username", "sentinel_password")}
    server_scheme = "rediss" if scheme == "sentinels" else "redis"
    return SentinelUrl(
        addresses=tuple(_parse_address(scheme, address) for address in addresses.split(",")),
        service=unquote(service),
        server_url=f"{server_scheme}://{credentials}{at}localhost?{urlencode(options)}",
        **own,
    )


def parse_cluster_url(url: str) -> ClusterUrl | None:
    """The parts of a cluster URL, or None for a URL that names one server.

    Raises:
        ValueError: If a host is missing, a port is not a port number, or a path follows.
    """
    scheme, _, rest = url.partition("://")
    if scheme not in ("cluster", "clusters"):
        return None
    rest, _, query = rest.partition("?")
    rest, _, path = rest.partition("/")
    if path:
        raise ValueError(f"{_expected_form(scheme)}: a cluster has no other database than 0")
    credentials, at, addresses = rest.rpartition("@")
    server_scheme = "rediss" if scheme == "clusters" else "redis"
    mark = "?" if query else ""
    return ClusterUrl(
        addresses=tuple(_parse_address(scheme, address) for address in addresses.split(",")),
        server_url=f"{server_scheme}://{credentials}{at}localhost{mark}{query}",
    )


def validate_url(url: str) -> None:
    """Raise if a URL cannot be used.

    Raises:
        ValueError: If the scheme is unknown, a part is missing or malformed, or the scheme does
            not have an option.
    """
    scheme, mark, rest = url.partition("://")
    if not mark or scheme not in SCHEMES:
        expected = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ValueError(f"expected a URL that starts with one of {expected}")
    before, _, query = rest.partition("?")
    address, _, path = before.partition("/")
    if "#" in url or (scheme != "unix" and "@" in path):
        raise ValueError("in a name or password '#', '/', '?' and '@' are %23, %2F, %3F and %40")
    if scheme in ("redis", "rediss"):
        if path and not path.isdecimal():
            raise ValueError(f"expected {scheme}://host:port/db with a number for db")
        _parse_address(scheme, address.rpartition("@")[2])
    elif scheme == "unix" and not path:
        raise ValueError("expected unix:///path/of/socket")
    parse_sentinel_url(url)
    parse_cluster_url(url)
    _check_options(scheme, query)


def shard_urls(urls: str, count: int) -> list[str]:
    """The URL of the server of each shard of a queue.

    Args:
        urls: The URLs of several servers, separated by spaces, or the one that all shards have.
        count: How many shards have it.
    """
    parts = urls.split()
    return parts if len(parts) > 1 else parts * count


def without_secrets(url: str) -> str:
    """The URL for display: passwords, and options that may be secret, read `***`."""
    start, _, query = url.partition("?")
    scheme, _, rest = start.partition("://")
    credentials, at, address = rest.rpartition("@")
    user, colon, _ = credentials.partition(":")
    rendered = f"{scheme}://{user}{colon and ':***'}{at}{address}"
    pairs = [part.partition("=") for part in query.split("&") if part]
    options = [f"{name}={value if name in _PUBLIC_OPTIONS else '***'}" for name, _, value in pairs]
    return "?".join((rendered, "&".join(options))) if options else rendered


def is_tls(url: str) -> bool:
    """Whether connections are encrypted."""
    return url.startswith(("rediss://", "sentinels://", "clusters://"))


def _check_options(scheme: str, query: str) -> None:
    known = {*_SHARED_OPTIONS, "password"}
    if scheme in ("rediss", "sentinels", "clusters"):
        known |= {*_TLS_FILES, *_TLS_CHECKS, "ssl_password"}
    if scheme in ("cluster", "clusters"):
        known.remove("db")
    if scheme in ("sentinel", "sentinels"):
        known |= {*_SENTINEL_OPTIONS, "sentinel_password"}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in known or not value:
            raise ValueError(f"options of {scheme}:// are {', '.join(sorted(known))}, with a value")
        if name in ("db", "health_check_interval") and not value.isdecimal():
            raise ValueError(f"option {name} is a whole number")
        if name == "ssl_cert_reqs" and value not in ("none", "optional", "required"):
            raise ValueError("option ssl_cert_reqs is none, optional or required")


def _parse_address(scheme: str, address: str) -> tuple[str, int]:
    default = SENTINEL_PORT if scheme.startswith("sentinel") else 6379
    try:
        parts = urlsplit(f"//{address}")
        host, port = parts.hostname, parts.port
    except ValueError:
        # The message of urllib repeats the text, which may be part of a password.
        raise ValueError(f"{_expected_form(scheme)}: a port is no number up to 65535") from None
    if not host or parts.netloc != address:
        raise ValueError(f"{_expected_form(scheme)}: a host is missing")
    return host, default if port is None else port


def _expected_form(scheme: str) -> str:
    if scheme.startswith("sentinel"):
        return f"expected {scheme}://[user:password@]host:26379,host:26379/service-name"
    if scheme.startswith("cluster"):
        return f"expected {scheme}://[user:password@]host:6379,host:6379"
    return f"expected {scheme}://[user:password@]host:port/db"
