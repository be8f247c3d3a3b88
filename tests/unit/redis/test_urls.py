"""URLs of servers: what they mean, what is refused and in which words, what is shown."""

import pytest

from stitchwork.redis.urls import (
    ClusterUrl,
    SentinelUrl,
    is_tls,
    parse_cluster_url,
    parse_sentinel_url,
    validate_url,
    without_secrets,
)

TAKEN = [
    "redis://there",
    "redis://me:secret@there:6380/3",
    "redis://[::1]:6379?db=2",
    "rediss://:secret@there?ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
    "unix:///run/valkey.sock?db=1",
    "unix://me:secret@/run/valkey.sock?password=secret",
    "sentinel://one/main",
    "sentinel://me:secret@one:1,[::1]:2,three/main?db=1&sentinel_password=secret",
    "sentinels://one,two/main?ssl_certfile=/c.pem&ssl_keyfile=/k.pem&ssl_password=secret",
    "cluster://one",
    "cluster://me:secret@one:1,[::1]:2,three?client_name=x&password=secret",
    "clusters://one,two/?ssl_ca_certs=/etc/ca.pem&ssl_password=secret",
]

REFUSED = [
    ("there:6379", "starts with one of redis://, .*, sentinels://, cluster://, clusters://"),
    ("http://there", "starts with one of"),
    ("redis://", "a host is missing"),
    ("redis://there:port", "a port is no number"),
    ("redis://there/first", "a number for db"),
    ("redis://:pass/word@there", "%23, %2F, %3F and %40"),
    ("redis://:pass#word@there", "%23, %2F, %3F and %40"),
    ("redis://:pass?word@there", "a port is no number"),
    ("unix://", "unix:///path/of/socket"),
    ("sentinel://one:26379", "one service name must follow the hosts"),
    ("sentinel://one:26379/", "one service name must follow the hosts"),
    ("sentinel://one/main/0", "one service name must follow the hosts"),
    ("sentinel:///main", "a host is missing"),
    ("sentinel://me:word@/main", "a host is missing"),
    ("sentinel://one,,two/main", "a host is missing"),
    ("sentinel://one:99999/main", "a port is no number up to 65535"),
    ("cluster://", "a host is missing"),
    ("cluster://one,,two", "a host is missing"),
    ("cluster://one:port", "a port is no number"),
    ("cluster://one/0", "no other database than 0"),
    ("cluster://one?db=1", "options of cluster:// are"),
    ("cluster://one?ssl_ca_certs=/ca.pem", "options of cluster:// are"),
    ("redis://there?ssl_ca_certs=/ca.pem", "options of redis://"),
    ("redis://there?sentinel_password=word", "options of redis://"),
    ("redis://there?socket_timeout=60", "options of redis://"),
    ("sentinel://one/main?db=", "with a value"),
    ("sentinel://one/main?db=first", "a whole number"),
    ("rediss://there?ssl_cert_reqs=maybe", "none, optional or required"),
]


@pytest.mark.parametrize("url", TAKEN)
def test_valid_urls_are_displayed_without_secrets(url: str) -> None:
    validate_url(url)
    rendered = without_secrets(url)
    assert rendered == url.replace("secret", "***")


@pytest.mark.parametrize(("url", "message"), REFUSED)
def test_errors_of_invalid_urls_do_not_repeat_them(url: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        validate_url(url)
    assert "word" not in str(error.value).replace("user:password", "").replace("password", "")
    assert error.value.__cause__ is None


def test_sentinel_url_has_separate_credentials_for_sentinels_and_servers() -> None:
    url = "sentinels://me:a%40b@One:1,two/my%20main?db=1&sentinel_password=c%26d&ssl_ca_certs=/x"
    assert parse_sentinel_url(url) == SentinelUrl(
        addresses=(("one", 1), ("two", 26379)),
        service="my main",
        server_url="rediss://me:a%40b@localhost?db=1&ssl_ca_certs=%2Fx",
        sentinel_username=None,
        sentinel_password="c&d",  # noqa: S106
    )
    assert parse_sentinel_url("redis://one") is None


def test_cluster_url_names_nodes_and_what_all_nodes_share() -> None:
    url = "clusters://me:a%40b@One:1,[::1]?client_name=x&ssl_ca_certs=/x"
    assert parse_cluster_url(url) == ClusterUrl(
        addresses=(("one", 1), ("::1", 6379)),
        server_url="rediss://me:a%40b@localhost?client_name=x&ssl_ca_certs=/x",
    )
    assert is_tls(url)
    assert not is_tls("cluster://one")
    assert parse_cluster_url("redis://one") is None
