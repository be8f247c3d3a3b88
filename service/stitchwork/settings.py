"""Settings: one frozen model, read from the environment and from flags of the same names."""

import ipaddress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from stitchwork.errors import InvalidInputError
from stitchwork.redis.urls import validate_url, without_secrets
from stitchwork.resources import Scope

Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1024)]

MEBI = 1024 * 1024
_LIMITS = (
    "request_timeout_seconds",
    "header_timeout_seconds",
    "min_bytes_per_second",
    "max_queue_jobs",
    "max_queue_bytes",
    "max_queue_wait_seconds",
    "rate_limits",
    "image_url_timeout_seconds",
)
"""What bounds a request, beside all that is called `max_…`."""


class Settings(BaseSettings):
    """How one process of the service is set up; validated when it starts."""

    model_config = SettingsConfigDict(
        env_prefix="STITCHWORK_", frozen=True, extra="ignore", hide_input_in_errors=True
    )

    host: str = Field("127.0.0.1", description="Address the API listens on.")
    port: int = Field(
        8765, ge=0, le=65_535, description="Port the API listens on; 0 takes a free one."
    )
    allow_public: bool = Field(
        False, description="Listen on addresses other than loopback although no keys guard them."
    )
    data_dir: Path = Field(
        Path("stitchwork-data"), description="Where `serve` keeps the embedded registry."
    )
    redis_url: str | None = Field(
        None, description="Registry server (durable, never evicting); unset: `serve` embeds one."
    )
    queue_url: str | None = Field(
        None, description="Queue and cache server (memory only); unset: the registry server."
    )
    apis: int = Field(1, ge=1, le=64, description="API processes that `serve` starts.")
    workers: int = Field(1, ge=0, le=256, description="Workers that `serve` starts.")
    worker_index: int = Field(
        0, ge=0, description="Which of a machine's workers this is; they take its GPUs in turn."
    )
    worker_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Patterns of the models a worker takes work for, separated by commas."
    )
    model_memory_bytes: int = Field(
        0, ge=0, description="Memory of a worker for models; 0 takes half of what its device has."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Device of a worker: auto, cpu, cuda, cuda:N or mps.",
    )
    compile_models: bool = Field(
        True, description="Compile models on a CPU, if OpenVINO is installed and its rows agree."
    )
    cuda_graphs: bool = Field(
        False, description="Replay small batches on a GPU as CUDA graphs; untested."
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that local model files may be read from, separated by colons."
    )
    offline: bool = Field(False, description="Never ask a model hub; use local files only.")
    hub_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("timm/*", "sentence-transformers/*"),
        description="Patterns of the hub's models that may be loaded, separated by commas.",
    )
    image_url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Patterns of the hosts that images may be fetched from by https URL, separated "
        "by commas; none: by value only.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )

    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="Seconds after SIGTERM in which an API takes requests but says not ready.",
    )
    request_timeout_seconds: Seconds = Field(
        30.0, description="Seconds a request may take at most."
    )
    redis_timeout_seconds: Seconds = Field(
        2.0, description="Seconds one call to a server may take."
    )
    stale_seconds: float = Field(
        300.0, ge=0, description="Seconds a known space may serve while the registry is away."
    )
    durable: bool = Field(
        True, description="Acknowledge a registration only once the registry's AOF has it."
    )
    durable_replicas: int = Field(
        0, ge=0, le=16, description="Replicas whose AOF must have it too before that."
    )

    max_body_bytes: Bytes = Field(256 * MEBI, description="Largest request body.")
    max_rows: Count = Field(65_536, description="Most embeddings in one request.")
    max_items: Count = Field(1_024, description="Most raw inputs in one inference request.")
    max_anchors: Count = Field(100_000, description="Most anchors in a set.")
    max_width: Count = Field(16_384, description="Widest embedding.")

    items_per_job: Count = Field(64, description="Raw inputs in one queued job; larger are split.")
    items_per_batch: int = Field(
        0, ge=0, description="Most raw inputs a model gets at once; 0: 32 on a CPU, 64 on a GPU."
    )
    max_queue_jobs: Count = Field(1_024, description="Jobs that may wait for one encoder.")
    max_queue_bytes: Bytes = Field(
        512 * MEBI, description="Bytes that waiting jobs may hold in all."
    )
    max_queue_wait_seconds: Seconds = Field(
        10.0, description="Seconds the first job in line may have waited for another to join it."
    )
    lease_seconds: Seconds = Field(
        10.0, description="Seconds after which a silent worker's jobs go to another."
    )
    forward_timeout_seconds: Seconds = Field(
        20.0, description="Seconds one forward pass may take; a worker that takes longer restarts."
    )
    worker_ttl_seconds: Seconds = Field(
        10.0, description="Seconds of silence after which a worker is gone."
    )
    map_cache_bytes: Bytes = Field(512 * MEBI, description="Memory of one process for fused maps.")
    fit_threads: Count = Field(1, description="Inverses computed at the same time in one process.")
    blas_threads: int = Field(
        0,
        ge=0,
        description="Threads of one matrix product on the CPU; 0 leaves the library's choice.",
    )
    embedded_queue_bytes: Bytes = Field(
        1024 * MEBI, description="Memory of the embedded queue server."
    )

    max_json_values: Count = Field(
        16 * MEBI, description="Most values in one JSON body; each takes up to 72 bytes."
    )
    max_json_depth: int = Field(
        64, ge=8, le=200, description="Most levels of lists and objects in JSON."
    )
    max_image_url_bytes: Bytes = Field(
        16 * MEBI, description="Largest image that is fetched by URL."
    )
    image_url_timeout_seconds: Seconds = Field(
        5.0, description="Seconds that fetching one may take."
    )
    max_image_pixels: Count = Field(64_000_000, description="Most pixels of an image.")
    max_text_tokens: int = Field(
        8_192, ge=16, description="Most tokens of a text, also where its model takes more."
    )
    max_head_layers: Count = Field(64, description="Most layers of a head.")
    max_inflight_body_bytes: Bytes = Field(
        1024 * MEBI,
        description="Bytes that all bodies under way in one API process may have.",
    )
    max_header_bytes: Bytes = Field(64 * 1024, description="Largest headers of a request.")
    max_connections: Count = Field(800, description="Connections that one API process takes.")
    header_timeout_seconds: Seconds = Field(
        10.0,
        description="Seconds for a request's headers, and by which a body may lag behind "
        "`min_bytes_per_second`.",
    )
    min_bytes_per_second: Count = Field(
        16 * 1024, description="Bytes a second at which clients must send and read, or are cut off."
    )
    key_file: Path | None = Field(
        None, description="File with hashes of keys, beside those that the registry holds."
    )
    rate_limits: Annotated[dict[Scope, str], NoDecode] = Field(
        {},
        description="How often each key may ask: `infer=100/minute;5000/day,read=20/second`.",
    )
    metrics_public: bool = Field(False, description="Answer `/metrics` to whoever has no key.")
    worker_metrics_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port on `host` where a worker shows its metrics; a machine's workers take "
        "this and those after it; 0: none.",
    )
    metrics_file: Path | None = Field(
        None,
        description="Folder and name under which a process keeps its figures beside those of "
        "others; `serve` sets it.",
    )
    tracing: bool = Field(
        False, description="Send spans by OpenTelemetry; where to, the `OTEL_*` variables say."
    )

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        return tuple(part for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("worker_models", "hub_models", "image_url_hosts", mode="before")
    @classmethod
    def _split_patterns(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("rate_limits", mode="before")
    @classmethod
    def _split_rates(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = (part.partition("=") for part in value.split(",") if part.strip())
        return {scope.strip(): rates.strip() for scope, _, rates in pairs}

    @field_validator("rate_limits")
    @classmethod
    def _check_rates(cls, value: dict[Scope, str]) -> dict[Scope, str]:
        if value:
            # Imported here, for most commands have no rates to read.
            from stitchwork.redis.rate_limiter import parse_rates

            try:
                for rates in value.values():
                    parse_rates(rates)
            except InvalidInputError as error:
                raise ValueError(error.message) from error
        return value

    @field_validator("redis_url", "queue_url")
    @classmethod
    def _check_url(cls, value: str | None) -> str | None:
        if value is not None:
            validate_url(value)
        return value

    @model_validator(mode="after")
    def _check_servers(self) -> Self:
        if self.queue_url and not self.redis_url:
            raise ValueError("queue_url needs redis_url: both servers are embedded, or neither")
        if self.durable_replicas and not (self.redis_url and self.durable):
            raise ValueError(
                "durable_replicas needs durable, and redis_url: the embedded one has none"
            )
        return self

    @property
    def must_have_keys(self) -> bool:
        """Whether others can reach the address, and nobody allowed that without keys."""
        return not (self.allow_public or _is_loopback(self.host))

    def limits(self) -> dict[str, Any]:
        """What bounds a request, as plain JSON values by the names of the settings."""
        names = {name for name in type(self).model_fields if name.startswith("max_")}
        return self.model_dump(mode="json", include=names.union(_LIMITS))

    def redacted(self) -> dict[str, Any]:
        """Every setting as plain JSON values, secrets in URLs left out."""
        shown = self.model_dump(mode="json")
        for name in ("redis_url", "queue_url"):
            if shown[name]:
                shown[name] = without_secrets(shown[name])
        return shown


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
