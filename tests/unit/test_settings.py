"""The settings: validation, secrets, and the documented table."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from stitchwork.redis.urls import shard_urls
from stitchwork.resources import Scope
from stitchwork.settings import Settings
from tests.support.chart_schema import SCHEMA, document, render

PAGE = Path(__file__).parents[2] / "docs/reference/settings.md"


NO_LIMITS = {
    "port": "",
    "apis": "",
    "workers": "",
    "worker_index": "",
    "queue_shards": "",
    "worker_port": "",
    "durable_replicas": "a guarantee",
    "model_memory_bytes": "models evict each other",
    "map_cache_bytes": "maps evict each other",
    "head_cache_bytes": "heads evict each other",
    "embedded_queue_bytes": "`max_queue_bytes` applies first",
    "compile_cache_bytes": "older compiled models are deleted",
    "keep_alive_seconds": "idle connections are closed",
    "drain_seconds": "requests are accepted in that time",
    "stale_seconds": "the registry is unavailable",
    "redis_timeout_seconds": "a server is unavailable",
    "worker_ttl_seconds": "a worker is gone",
    "worker_restart_seconds": "the last worker is gone",
    "lease_seconds": "its jobs are redelivered",
    "forward_timeout_seconds": "its jobs are redelivered",
    "caller_classes": "classes share each encoder",
    "items_per_job": "larger requests are split",
    "items_per_batch": "larger batches are split",
    "fit_threads": "fits wait for each other",
    "blas_threads": "",
}
"""Numbers that limit no request, and the reason."""


def test_number_is_a_limit_or_listed_as_none() -> None:
    numbers = {
        name
        for name, field in Settings.model_fields.items()
        if type(field.default) in (int, float) or "limit" in name
    }
    assert Settings().limits().keys() == numbers - NO_LIMITS.keys()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate_limits": "infer=often"}, "100/minute"),
        ({"rate_limits": "write=1/minute"}, "'read', 'infer', 'export' or 'admin'"),
        ({"redis_url": "http://x"}, "redis://"),
        ({"tls_cert_file": "/a.pem"}, "both tls_cert_file and tls_key_file"),
        ({"root_path": "stitchwork"}, "expected a path such as /stitchwork"),
        ({"root_path": "/a b"}, "expected a path such as /stitchwork"),
        ({"trusted_proxies": "proxy.local"}, "expected addresses, networks"),
        ({"trusted_proxies": "10.0.0.1/8"}, "has host bits set"),
        ({"trusted_proxies": "*,10.0.0.1"}, "expected \\* alone"),
        ({"cors_origins": "app.example.com"}, "expected origins such as"),
        ({"cors_origins": "https://app.example.com/"}, "expected origins such as"),
        ({"redis_url": "sentinel://one,two"}, "service name"),
        ({"queue_url": "sentinels:///main", "redis_url": "redis://x"}, "host is missing"),
        ({"queue_url": "redis://x"}, "needs redis_url"),
        ({"queue_url": "redis://x http://y", "redis_url": "redis://z"}, "redis://"),
        ({"queue_url": "redis://x redis://x", "redis_url": "redis://z"}, "got one twice"),
        ({"queue_shards": 2}, "needs a cluster:// URL"),
        ({"queue_shards": 2, "redis_url": "redis://x"}, "needs a cluster:// URL"),
        (
            {"queue_shards": 3, "queue_url": "redis://x redis://y", "redis_url": "redis://z"},
            "queue_url names 2 servers, which are one shard each",
        ),
        ({"queue_shards": 17, "redis_url": "cluster://x"}, "less than or equal to 16"),
        ({"durable_replicas": 1}, "needs durable"),
        ({"durable_replicas": 1, "durable": False, "redis_url": "redis://x"}, "needs durable"),
        ({"port": 70_000}, "less than or equal to 65535"),
        ({"device": "tpu"}, "pattern"),
        ({"request_timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_wrong_value_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate(values)


def test_keys_are_required_on_public_addresses_unless_a_setting_decides() -> None:
    assert Settings(host="0.0.0.0").keys_required  # noqa: S104
    assert not Settings(host="0.0.0.0", require_keys=False).keys_required  # noqa: S104
    assert not Settings(host="::1").keys_required
    assert not Settings(host="::", unix_socket=Path("/run/api.sock")).keys_required
    assert not Settings(host="localhost").keys_required
    assert Settings(host="localhost", require_keys=True).keys_required


def test_admin_key_is_long_and_not_printed() -> None:
    key = "k" * 32
    settings = Settings.model_validate({"admin_key": key})
    assert key not in str(settings.redacted())
    assert key not in repr(settings)
    assert Settings.model_validate({"admin_key": ""}).admin_key is None
    for wrong in ("k" * 31, "k" * 31 + "\n", "ü" * 32):
        with pytest.raises(ValidationError, match="expected 32 printable ASCII") as error:
            Settings.model_validate({"admin_key": wrong})
        assert wrong not in str(error.value)


def test_schema_of_the_chart_has_the_settings_of_the_model() -> None:
    assert SCHEMA.read_text() == render(document()), (
        "write it anew: python -m tests.support.chart_schema"
    )


def test_rate_limits_are_parsed_by_scope() -> None:
    text = "infer=100/minute;5000/day, read=20/second"
    rates = Settings.model_validate({"rate_limits": text}).rate_limits
    assert rates == {Scope.INFER: "100/minute;5000/day", Scope.READ: "20/second"}


def test_redacted_settings_have_no_passwords() -> None:
    values = Settings(redis_url="rediss://me:secret@there:6379/0").redacted()
    assert values["redis_url"] == "rediss://me:***@there:6379/0"
    assert "secret" not in str(values)
    values = Settings(
        redis_url="sentinels://me:secret@one,two:1/main?db=0&sentinel_password=secret",
        queue_url="unix:///run/q.sock?password=secret",
    ).redacted()
    assert values["redis_url"] == "sentinels://me:***@one,two:1/main?db=0&sentinel_password=***"
    assert values["queue_url"] == "unix:///run/q.sock?password=***"


def test_queue_has_a_shard_for_each_url_or_several_in_a_cluster() -> None:
    blank = Settings(redis_url="redis://r", queue_url=" \n")
    assert blank.queue_url is None
    several = Settings(redis_url="redis://r", queue_url="redis://:secret@a redis://b:1")
    assert several.redacted()["queue_url"] == "redis://:***@a redis://b:1"
    assert shard_urls(str(several.queue_url), several.queue_shards) == [
        "redis://:secret@a",
        "redis://b:1",
    ]
    cluster = Settings(redis_url="cluster://a,b", queue_shards=2)
    assert shard_urls(str(cluster.redis_url), cluster.queue_shards) == ["cluster://a,b"] * 2


def test_refused_url_is_not_part_of_the_error() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(redis_url="redis://:secret/@there")
    assert "secret" not in str(error.value)


def test_command_with_a_wrong_setting_prints_a_sentence_and_returns_2() -> None:
    command = [sys.executable, "-P", "-m", "stitchwork", "api", "--port", "70000"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "expected at most 65535, got" in result.stderr
    assert "Traceback" not in result.stderr


def test_documentation_lists_every_setting_with_default_and_description() -> None:
    rows = {}
    for line in PAGE.read_text().splitlines():
        if line.startswith("| `STITCHWORK_"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            rows[name] = cells
    expected = {
        f"`STITCHWORK_{name.upper()}`": [rendered(field.default), field.description]
        for name, field in Settings.model_fields.items()
    }
    table = [
        f"| {name} | {default} | {description} |"
        for name, (default, description) in expected.items()
    ]
    assert rows == expected, "\n".join(["the documented table of settings should be:", *table])


def rendered(default: object) -> str:
    """A default in the documented table."""
    if default is None or default in ((), {}, ""):
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(map(str, default))}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
