"""The plan of `stitchwork serve`, which the launcher sends to the supervisor as one line."""

import json
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    # The supervisor starts in a third of the time without it.
    from stitchwork.settings import Settings

SERVER_SECONDS: Final = 60.0
KILL_SECONDS: Final = 5.0
PYTHON: Final = (sys.executable, "-P", "-m")
"""Runs a module; without `-P`, modules in the working directory would hide installed ones."""


@dataclass(frozen=True)
class Plan:
    """What to run, and how.

    Attributes:
        host: Address that the API listens on.
        port: Port that the API listens on; 0 takes a free one.
        unix_socket: Path of a Unix socket that the API listens on instead.
        encrypted: Whether the API serves by TLS.
        data_dir: Folder of the embedded registry.
        apis: Number of API processes, which share the address.
        workers: Number of workers.
        redis_url: An external registry server; None embeds both servers.
        queue_url: An external queue server; None takes the registry server.
        max_queue_bytes: Memory of the embedded queue server.
        env: Environment of API and workers, in addition to the launcher's.
        api_command: Starts an API; `--fd N`, a listening socket, is appended.
        worker_command: Starts a worker.
        lock_seconds: How long to wait for a predecessor that is still shutting down.
        drain_seconds: How long API and workers may each finish the requests in progress.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    unix_socket: Path | None = None
    encrypted: bool = False
    data_dir: Path = Path("stitchwork-data")
    apis: int = 1
    workers: int = 1
    redis_url: str | None = None
    queue_url: str | None = None
    max_queue_bytes: int = 1024 * 1024 * 1024
    env: Mapping[str, str] = field(default_factory=dict)
    api_command: tuple[str, ...] = (*PYTHON, "stitchwork", "api")
    worker_command: tuple[str, ...] = (*PYTHON, "stitchwork", "worker")
    lock_seconds: float = 60.0
    drain_seconds: float = 40.0

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """The plan for settings; those that are set explicitly are passed on to the children."""
        explicit = {name: getattr(settings, name) for name in settings.model_fields_set}
        return cls(
            host=settings.host,
            port=settings.port,
            unix_socket=settings.unix_socket,
            encrypted=settings.tls_cert_file is not None,
            data_dir=settings.data_dir,
            apis=settings.apis,
            workers=settings.workers,
            redis_url=settings.redis_url,
            queue_url=settings.queue_url,
            max_queue_bytes=settings.embedded_queue_bytes,
            env={
                f"STITCHWORK_{name.upper()}": _as_text(value)
                for name, value in explicit.items()
                if value is not None
            },
            drain_seconds=settings.drain_seconds + settings.request_timeout_seconds + 10.0,
        )

    def to_json(self) -> str:
        """The plan as one line."""
        fields = asdict(self) | {"data_dir": str(self.data_dir.absolute()), "env": dict(self.env)}
        fields["unix_socket"] = str(self.unix_socket) if self.unix_socket else None
        return json.dumps(fields)

    @classmethod
    def from_json(cls, line: str | bytes) -> Self:
        """The plan that `to_json` wrote."""
        fields = json.loads(line)
        for name in ("api_command", "worker_command"):
            fields[name] = tuple(fields[name])
        path = fields["unix_socket"]
        fields |= {
            "data_dir": Path(fields["data_dir"]),
            "unix_socket": Path(path) if path else None,
        }
        return cls(**fields)


def _as_text(value: object) -> str:
    # Imported here for the same reason: only the launcher, which has settings, calls this.
    from pydantic import SecretStr

    match value:
        case str() | bool() | int() | float() | Path():
            return str(value)
        case tuple():
            separator = ":" if all(isinstance(part, Path) for part in value) else ","
            return separator.join(str(part) for part in value)
        case SecretStr():
            return value.get_secret_value()
        case dict():
            return ",".join(f"{key}={part}" for key, part in value.items())
    raise TypeError(f"no environment variable can hold a {type(value).__name__}")


def describe_exit(status: int) -> str:
    """How a process with this exit status ended, as the rest of a sentence."""
    if status >= 0:
        return f"exited with {status}"
    # Not every signal has a name.
    names = {signum.value: signum.name for signum in signal.Signals}
    return f"was killed by {names.get(-status, f'signal {-status}')}"
