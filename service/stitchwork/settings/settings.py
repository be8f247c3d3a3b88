"""The settings of one process, with their defaults and descriptions."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from stitchwork.errors import InvalidInputError
from stitchwork.redis.urls import without_secrets
from stitchwork.resources import Scope
from stitchwork.settings.listening import ListeningSettings
from stitchwork.settings.servers import Seconds, ServerSettings

Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1024)]

MEBI = 1024 * 1024
MIN_KEY_CHARS = 32
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
"""The settings that limit a request, in addition to those named `max_…`."""


class Settings(ListeningSettings, ServerSettings):
    """The configuration of one process of the service, validated when it starts."""

    model_config = SettingsConfigDict(
        env_prefix="STITCHWORK_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    require_keys: bool | None = Field(
        None,
        description="Refuse requests without an API key, also while none exists; unset: if `host` "
        "is not a loopback address.",
    )
    admin_key: SecretStr | None = Field(
        None, description="A key of scope admin, 32 characters or more, in addition to all others."
    )
    data_dir: Path = Field(
        Path("stitchwork-data"), description="Folder of the embedded registry of `serve`."
    )
    apis: int = Field(1, ge=1, le=64, description="Number of API processes that `serve` starts.")
    workers: int = Field(1, ge=0, le=256, description="Number of workers that `serve` starts.")
    worker_index: int = Field(
        0, ge=0, description="Index of a worker on its machine, which selects its GPU."
    )
    worker_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("*",), description="Patterns of the models that a worker serves, separated by commas."
    )
    model_memory_bytes: int = Field(
        0, ge=0, description="Memory of a worker for models; 0 is half of its device's memory."
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$",
        description="Device of a worker: auto, cpu, cuda, cuda:N or mps.",
    )
    compile_models: bool = Field(
        True,
        description="Compile models for the CPU if OpenVINO is installed and its output agrees.",
    )
    compile_cache_dir: Path | None = Field(
        None,
        description="Folder of compiled models, which workers that start later read; unset: "
        "`stitchwork/compiled` in the user's cache folder.",
    )
    compile_cache_bytes: int = Field(
        4096 * MEBI,
        ge=0,
        description="Maximum size of that folder, beyond which the models used longest ago are "
        "deleted; 0: none are kept.",
    )
    preload: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Patterns of the spaces' ids and models that a worker loads before it is "
        "ready, separated by commas.",
    )
    cuda_graphs: bool = Field(
        False, description="Replay small batches on a GPU as CUDA graphs; untested."
    )
    model_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        (), description="Folders that local model files may be read from, separated by colons."
    )
    offline: bool = Field(False, description="Use local model files only, never a model hub.")
    hub_models: Annotated[tuple[str, ...], NoDecode] = Field(
        ("timm/*", "sentence-transformers/*"),
        description="Patterns of the models that may be loaded from a hub, separated by commas.",
    )
    image_url_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Patterns of the hosts that images may be fetched from by https URL, separated "
        "by commas; empty: images by value only.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum severity of log records."
    )

    drain_seconds: float = Field(
        0.0,
        ge=0,
        description="Time after SIGTERM in which an API serves requests but reports not ready.",
    )
    request_timeout_seconds: Seconds = Field(30.0, description="Timeout of a request.")
    max_body_bytes: Bytes = Field(256 * MEBI, description="Maximum size of a request body.")
    max_rows: Count = Field(65_536, description="Maximum number of embeddings in a request.")
    max_items: Count = Field(2_048, description="Maximum number of raw inputs in a request.")
    max_anchors: Count = Field(100_000, description="Maximum number of anchors in a set.")
    max_width: Count = Field(16_384, description="Maximum width of an embedding.")

    items_per_job: Count = Field(
        64,
        description="Maximum number of raw inputs in a queued job, which has fewer if they are "
        "long texts or large images; larger requests are split.",
    )
    items_per_batch: int = Field(
        0,
        ge=0,
        description="Maximum number of raw inputs in a model's batch; 0: 32 on a CPU, 64 on a GPU.",
    )
    max_queue_jobs: Count = Field(
        1_024, description="Maximum number of jobs that wait for one encoder."
    )
    max_queue_bytes: Bytes = Field(512 * MEBI, description="Maximum size of all waiting jobs.")
    max_queue_wait_seconds: Seconds = Field(
        10.0, description="Maximum wait of the first job in line at which another is accepted."
    )
    caller_classes: int = Field(
        8,
        ge=1,
        le=64,
        description="Number of classes of callers, by API key or else by address, which share each "
        "encoder by weight; 1: first come, first served.",
    )
    lease_seconds: Seconds = Field(
        10.0, description="Time after which the jobs of a silent worker are redelivered."
    )
    forward_timeout_seconds: Seconds = Field(
        20.0, description="Timeout of one forward pass, after which the worker restarts."
    )
    worker_ttl_seconds: Seconds = Field(
        10.0, description="Time of silence after which a worker counts as gone."
    )
    worker_restart_seconds: Seconds = Field(
        5.0,
        description="Time for which accepted requests wait for another worker once the last one "
        "that serves their model is gone; one that is starting is waited for.",
    )
    map_cache_bytes: Bytes = Field(512 * MEBI, description="Memory of a process for cached maps.")
    head_cache_bytes: Bytes = Field(128 * MEBI, description="Memory of a process for cached heads.")
    fit_threads: Count = Field(
        1, description="Number of inverses that a process computes at the same time."
    )
    blas_threads: int = Field(
        0,
        ge=0,
        description="Threads of one matrix product on the CPU; 0: the CPUs of this machine or "
        "container.",
    )
    embedded_queue_bytes: Bytes = Field(
        1024 * MEBI, description="Memory of the embedded queue server."
    )

    max_json_values: Count = Field(
        16 * MEBI,
        description="Maximum number of values in the JSON of a request or a response.",
    )
    max_json_depth: int = Field(
        64, ge=8, le=200, description="Maximum nesting depth of a JSON body."
    )
    max_image_url_bytes: Bytes = Field(
        16 * MEBI, description="Maximum size of an image that is fetched by URL."
    )
    image_url_timeout_seconds: Seconds = Field(
        5.0, description="Timeout of fetching an image by URL."
    )
    max_image_pixels: Count = Field(64_000_000, description="Maximum number of pixels of an image.")
    max_text_tokens: int = Field(
        8_192,
        ge=16,
        description="Maximum number of tokens of a text, also where the model accepts more.",
    )
    max_fit_scores: Count = Field(
        64 * MEBI,
        description="Maximum number of scores of a fitted head on its data: inputs times classes.",
    )
    max_head_layers: Count = Field(64, description="Maximum number of layers of a head.")
    max_inflight_body_bytes: Bytes = Field(
        1024 * MEBI,
        description="Maximum size of all request bodies in progress in one API process, with the "
        "arrays and results that are made of them.",
    )
    max_header_bytes: Bytes = Field(
        64 * 1024, description="Maximum size of the headers of a request."
    )
    max_connections: Count = Field(
        800, description="Maximum number of connections of one API process."
    )
    header_timeout_seconds: Seconds = Field(
        10.0,
        description="Timeout of a request's headers, and the time by which a body may lag behind "
        "`min_bytes_per_second`.",
    )
    min_bytes_per_second: Count = Field(
        16 * 1024,
        description="Minimum rate of sending and reading; slower clients are disconnected.",
    )
    key_file: Path | None = Field(
        None, description="File of hashed API keys, in addition to those in the registry."
    )
    rate_limits: Annotated[dict[Scope, str], NoDecode] = Field(
        {},
        description="Rate limits of each API key by scope, as "
        "`infer=100/minute;64 items/second,read=20/second`: of requests, or of the items, tokens "
        "or pixels of raw inputs.",
    )
    model_aliases: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description="Names of models under `/v1` for other models, as "
        "`text-embedding-3-small=minilm->old`, separated by commas; `*` for requests without one.",
    )
    metrics_public: bool = Field(False, description="Serve `/metrics` without an API key.")
    worker_port: int = Field(
        0,
        ge=0,
        le=65_535,
        description="Port on `host` of a worker's `/live`, `/ready` and `/metrics`, plus its "
        "index; 0: none.",
    )
    metrics_file: Path | None = Field(
        None,
        description="Path prefix of the metrics file of a process; set by `serve`.",
    )
    tracing: bool = Field(
        False, description="Export spans with OpenTelemetry, configured by the `OTEL_*` variables."
    )

    @field_validator("model_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        return tuple(part for part in value.split(":") if part) if isinstance(value, str) else value

    @field_validator("worker_models", "preload", "hub_models", "image_url_hosts", mode="before")
    @classmethod
    def _split_patterns(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("rate_limits", "model_aliases", mode="before")
    @classmethod
    def _split_pairs(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = (part.partition("=") for part in value.split(",") if part.strip())
        return {name.strip(): text.strip() for name, _, text in pairs}

    @field_validator("rate_limits")
    @classmethod
    def _check_rates(cls, value: dict[Scope, str]) -> dict[Scope, str]:
        if value:
            # Imported here, since few processes have rate limits.
            from stitchwork.redis.rates import parse_rates

            try:
                for rates in value.values():
                    parse_rates(rates)
            except InvalidInputError as error:
                raise ValueError(error.message) from error
        return value

    @field_validator("admin_key")
    @classmethod
    def _check_admin_key(cls, value: SecretStr | None) -> SecretStr | None:
        secret = value.get_secret_value() if value else ""
        if not secret:
            # Compose passes an empty text on for a variable that is not set.
            return None
        if len(secret) < MIN_KEY_CHARS or not secret.isascii() or not secret.isprintable():
            raise ValueError(
                f"expected {MIN_KEY_CHARS} printable ASCII characters or more, got {len(secret)}"
                " or others"
            )
        return value

    @property
    def keys_required(self) -> bool:
        """Whether a request needs a key even if none exists."""
        return not self.is_local if self.require_keys is None else self.require_keys

    def limits(self) -> dict[str, Any]:
        """The limits of a request, as JSON values by the names of their settings."""
        names = {name for name in type(self).model_fields if name.startswith("max_")}
        return self.model_dump(mode="json", include=names.union(_LIMITS))

    def redacted(self) -> dict[str, Any]:
        """All settings as JSON values, without the secrets in URLs."""
        values = self.model_dump(mode="json")
        for name in ("redis_url", "queue_url"):
            if values[name]:
                values[name] = " ".join(map(without_secrets, values[name].split()))
        return values
