"""Settings: what is refused, what is hidden, and that README's table is true."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from stitchwork.resources import Scope
from stitchwork.settings import Settings

README = Path(__file__).parents[2] / "README.md"


NO_LIMITS = {
    "port": "",
    "apis": "",
    "workers": "",
    "worker_index": "",
    "worker_metrics_port": "",
    "durable_replicas": "what is promised",
    "model_memory_bytes": "models make room for each other",
    "map_cache_bytes": "maps make room for each other",
    "embedded_queue_bytes": "`max_queue_bytes` holds before",
    "drain_seconds": "requests are taken meanwhile",
    "stale_seconds": "the registry is away",
    "redis_timeout_seconds": "a server is away",
    "worker_ttl_seconds": "a worker is gone",
    "lease_seconds": "its jobs go to another",
    "forward_timeout_seconds": "its jobs go to another",
    "items_per_job": "larger requests are split",
    "items_per_batch": "larger batches are split",
    "fit_threads": "fits wait for each other",
    "blas_threads": "",
}
"""Numbers that bound no request, and why not."""


def test_every_number_bounds_requests_or_is_known_not_to() -> None:
    found = {
        name
        for name, field in Settings.model_fields.items()
        if type(field.default) in (int, float) or "limit" in name
    }
    assert Settings().limits().keys() == found - NO_LIMITS.keys()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rate_limits": "infer=often"}, "100/minute"),
        ({"rate_limits": "write=1/minute"}, "'read', 'infer' or 'admin'"),
        ({"redis_url": "http://x"}, "redis://"),
        ({"redis_url": "sentinel://one,two"}, "service name"),
        ({"queue_url": "sentinels:///main", "redis_url": "redis://x"}, "host is missing"),
        ({"queue_url": "redis://x"}, "needs redis_url"),
        ({"durable_replicas": 1}, "needs durable"),
        ({"durable_replicas": 1, "durable": False, "redis_url": "redis://x"}, "needs durable"),
        ({"port": 70_000}, "less than or equal to 65535"),
        ({"device": "tpu"}, "pattern"),
        ({"request_timeout_seconds": 0}, "greater than 0"),
    ],
)
def test_wrong_settings_are_refused(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Settings.model_validate(given)


def test_public_addresses_need_keys_or_consent() -> None:
    assert Settings(host="0.0.0.0").must_have_keys  # noqa: S104
    assert not Settings(host="0.0.0.0", allow_public=True).must_have_keys  # noqa: S104
    assert not Settings(host="::1").must_have_keys
    assert not Settings(host="localhost").must_have_keys


def test_rates_are_read_by_scope() -> None:
    told = "infer=100/minute;5000/day, read=20/second"
    found = Settings.model_validate({"rate_limits": told}).rate_limits
    assert found == {Scope.INFER: "100/minute;5000/day", Scope.READ: "20/second"}


def test_passwords_are_not_shown() -> None:
    shown = Settings(redis_url="rediss://me:secret@there:6379/0").redacted()
    assert shown["redis_url"] == "rediss://me:***@there:6379/0"
    assert "secret" not in str(shown)
    shown = Settings(
        redis_url="sentinels://me:secret@one,two:1/main?db=0&sentinel_password=secret",
        queue_url="unix:///run/q.sock?password=secret",
    ).redacted()
    assert shown["redis_url"] == "sentinels://me:***@one,two:1/main?db=0&sentinel_password=***"
    assert shown["queue_url"] == "unix:///run/q.sock?password=***"


def test_a_refused_url_is_not_repeated() -> None:
    with pytest.raises(ValidationError) as error:
        Settings(redis_url="redis://:secret/@there")
    assert "secret" not in str(error.value)


def test_a_wrong_setting_ends_the_command_with_a_sentence() -> None:
    command = [sys.executable, "-m", "stitchwork", "api", "--port", "70000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "less than or equal to 65535" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_readme_names_every_setting_its_default_and_what_it_means() -> None:
    told = {}
    for line in README.read_text().splitlines():
        if line.startswith("| `STITCHWORK_"):
            name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
            told[name] = cells
    true = {
        f"`STITCHWORK_{name.upper()}`": [shown(field.default), field.description]
        for name, field in Settings.model_fields.items()
    }
    table = [f"| {name} | {default} | {means} |" for name, (default, means) in true.items()]
    assert told == true, "\n".join(["README's table of settings is to be:", *table])


def shown(default: object) -> str:
    """A default as README's table shows it."""
    if default is None or default in ((), {}):
        return ""
    if isinstance(default, tuple):
        return f"`{','.join(map(str, default))}`"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"
