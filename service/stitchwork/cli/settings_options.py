"""Options made from the settings: the bridge from the one settings model to click.

An option has the name of its setting in kebab case, and its description as help. Its value is
validated by the model, like that of the environment variable, which it precedes.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

import click
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from stitchwork.cli.environment import check_service_environment
from stitchwork.cli.options import Command
from stitchwork.errors import (
    QueueUnavailableError,
    RegistryUnavailableError,
    StitchworkError,
    UnavailableError,
)
from stitchwork.expectations import describe, expected
from stitchwork.redis.urls import without_secrets
from stitchwork.settings import Settings
from stitchwork.telemetry import logs

_ALL: Final = frozenset(Settings.model_fields)
_SECRET: Final = frozenset({"admin_key"})
"""Settings that are environment variables only: every user of a machine sees command lines."""
_SHARED: Final = frozenset(
    {
        "redis_url",
        "queue_url",
        "queue_shards",
        "redis_timeout_seconds",
        "stale_seconds",
        "durable",
        "durable_replicas",
        "worker_ttl_seconds",
        "items_per_job",
        "map_cache_bytes",
        "head_cache_bytes",
        "fit_threads",
        "blas_threads",
        "offline",
        "host",
        "log_level",
        "metrics_file",
        "tracing",
    }
)
WORKER_SETTINGS: Final = _SHARED | {
    "worker_index",
    "worker_models",
    "worker_port",
    "model_memory_bytes",
    "model_roots",
    "hub_models",
    "device",
    "compile_models",
    "compile_cache_dir",
    "compile_cache_bytes",
    "preload",
    "cuda_graphs",
    "items_per_batch",
    "lease_seconds",
    "forward_timeout_seconds",
    "max_image_pixels",
    "max_text_tokens",
}
_SERVE_ALONE: Final = frozenset({"data_dir", "apis", "workers", "embedded_queue_bytes"})
API_SETTINGS: Final = _ALL - _SECRET - _SERVE_ALONE - (WORKER_SETTINGS - _SHARED) | {
    "hub_models",
    "max_image_pixels",
    "max_text_tokens",
}
SERVE_SETTINGS: Final = _ALL - _SECRET - {"worker_index", "metrics_file"}
"""All but what `serve` sets for each of its children."""
ALL_SETTINGS: Final = _ALL - _SECRET
SERVER_SETTINGS: Final = frozenset(
    {"redis_url", "queue_url", "queue_shards", "data_dir", "redis_timeout_seconds", "log_level"}
)
"""What a command reads that calls the registry and queue servers."""
REGISTRY_SETTINGS: Final = SERVER_SETTINGS | {"durable", "durable_replicas", "stale_seconds"}

_WORDS: Final = {"seconds": "SECONDS", "bytes": "BYTES", "url": "URL", "port": "PORT"}


class SettingOption(click.Option):
    """An option that stands for a setting."""


class SettingsCommand(Command):
    """A command that is called with the settings; its own options come first in its help.

    Args:
        settings: The names of the settings that it reads, which become options.
    """

    def __init__(self, *args: Any, settings: Collection[str], **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._settings = [name for name in Settings.model_fields if name in settings]
        self.params += [_option(name, Settings.model_fields[name]) for name in self._settings]

    def invoke(self, ctx: click.Context) -> Any:
        """Validate the settings, configure the logs, and call the command.

        Raises:
            InvalidSettingError: If a setting is refused.
            RefusedError: If the command fails.
        """
        options = {name: ctx.params.pop(name) for name in self._settings}
        settings = load({name: value for name, value in options.items() if value is not None})
        logs.configure(settings.log_level)
        ctx.params["settings"] = settings
        try:
            return super().invoke(ctx)
        except (RegistryUnavailableError, QueueUnavailableError) as error:
            raise RefusedError(error, _address(settings, error)) from error
        except StitchworkError as error:
            raise RefusedError(error) from error

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, then the settings that it reads."""
        sections: dict[str, list[tuple[str, str]]] = {
            "Options": [],
            "Settings (also environment variables: --redis-url is STITCHWORK_REDIS_URL)": [],
        }
        own, settings = sections.values()
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Arguments are in the usage line and the text.
            if record is not None and isinstance(parameter, click.Option):
                (settings if isinstance(parameter, SettingOption) else own).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


class RefusedError(click.ClickException):
    """What ended a command that runs or manages a service; a health check reads 1 as unhealthy."""

    exit_code = 1

    def __init__(self, error: StitchworkError, address: str = "") -> None:
        super().__init__(f"stitchwork: {error}{address}")


def _address(settings: Settings, error: UnavailableError) -> str:
    """The URL of the server that an error is about, and the system's reason, in brackets."""
    url = settings.redis_url
    if isinstance(error, QueueUnavailableError):
        url = settings.queue_url or url
    if url is None:
        return ""
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    reason = f": {cause.strerror}" if isinstance(cause, OSError) else ""
    return f" ({' '.join(map(without_secrets, url.split()))}{reason})"


class InvalidSettingError(click.ClickException):
    """Settings that the model refuses."""

    exit_code = 2

    def __init__(self, error: ValidationError) -> None:
        super().__init__("\n".join(_sentence(fault) for fault in error.errors()))


def load(options: dict[str, Any]) -> Settings:
    """The settings of this process.

    Args:
        options: Values of the command line by the names of their settings.

    Raises:
        InvalidSettingError: If a value is refused.
    """
    check_service_environment(_ALL)
    try:
        return Settings(**options)
    except ValidationError as error:
        raise InvalidSettingError(error) from error


def _sentence(fault: Any) -> str:
    """What a setting expected and what came, under its option and its variable."""
    name = str(fault["loc"][0]) if fault["loc"] else ""
    message = _expectation(name, fault)
    if name not in _ALL:
        return f"stitchwork: {name or 'settings'}: {message}"
    variable = f"STITCHWORK_{name.upper()}"
    if name in _SECRET:
        return f"stitchwork: {variable}: {message}"
    return f"stitchwork: {name} (--{_kebab(name)} or {variable}): {message}"


def _expectation(name: str, fault: Any) -> str:
    context = fault.get("ctx", {})
    if fault["type"] == "value_error":
        # Written by the model itself, which does not repeat a URL: it may hold a password.
        return str(context["error"])
    wanted = "auto, cpu, cuda, cuda:N or mps" if name == "device" else expected(fault)
    if not wanted:
        return str(fault["msg"])
    value = "" if name in ("redis_url", "queue_url") else f", got {describe(fault['input'])}"
    return f"expected {wanted}{value}"


def _option(name: str, field: FieldInfo) -> SettingOption:
    kebab = _kebab(name)
    default = _default(field.default)
    text = f"{field.description}{f' [default: {default}]' if default else ''}"
    if field.annotation in (bool, bool | None):
        return SettingOption([f"--{kebab}/--no-{kebab}"], default=None, help=text)
    return SettingOption([f"--{kebab}"], default=None, metavar=_type_word(name, field), help=text)


def _kebab(name: str) -> str:
    return name.replace("_", "-")


def _type_word(name: str, field: FieldInfo) -> str:
    """The type of a setting in a word, as its unit where it has one."""
    word = name.rpartition("_")[2]
    if word in _WORDS:
        return _WORDS[word]
    parts = [part for part in (get_args(field.annotation) or (field.annotation,)) if part]
    origin = get_origin(field.annotation)
    if origin is Literal:
        return f"[{'|'.join(parts)}]"
    if origin is dict:
        return "SCOPE=RATE[,...]"
    if origin is tuple:
        return "PATH[:...]" if parts[0] is Path else "TEXT[,...]"
    if Path in parts:
        return "PATH"
    return "COUNT" if int in parts else "TEXT"


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return (
        ""
        if value is None or value == {}
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
