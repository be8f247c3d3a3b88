"""The settings of the registry and queue servers."""

from typing import Annotated, Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings

from stitchwork.redis.urls import parse_cluster_url, validate_url

MAX_SHARDS: Final = 16
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class ServerSettings(BaseSettings):
    """The addresses of the servers, and what is expected of them."""

    redis_url: str | None = Field(
        None, description="Registry server, durable and never evicting; unset: `serve` embeds one."
    )
    queue_url: str | None = Field(
        None,
        description="Queue and cache server, memory only; unset: the registry server. Several "
        "URLs, separated by spaces, are one shard of the queue each.",
    )
    queue_shards: int = Field(
        1,
        ge=1,
        le=MAX_SHARDS,
        description="Number of shards of the queue in a cluster; the same for all processes.",
    )
    redis_timeout_seconds: Seconds = Field(
        2.0, description="Timeout of one call to a registry or queue server."
    )
    stale_seconds: float = Field(
        300.0,
        ge=0,
        description="How long cached spaces may be served while the registry is unavailable.",
    )
    durable: bool = Field(
        True,
        description="Acknowledge a registration only after the registry has written it to its "
        "append-only file.",
    )
    durable_replicas: int = Field(
        0, ge=0, le=16, description="Number of replicas that must have written it as well."
    )

    @field_validator("redis_url")
    @classmethod
    def _check_registry_url(cls, value: str | None) -> str | None:
        if value is not None:
            validate_url(value)
        return value

    @field_validator("queue_url")
    @classmethod
    def _check_queue_urls(cls, value: str | None) -> str | None:
        urls = (value or "").split()
        if not urls:
            return None
        for url in urls:
            validate_url(url)
        if len(urls) > MAX_SHARDS:
            raise ValueError(f"expected at most {MAX_SHARDS} URLs, got {len(urls)}")
        if len(set(urls)) < len(urls):
            raise ValueError("expected another server for each shard, got one twice")
        return value

    @model_validator(mode="after")
    def _check_servers(self) -> Self:
        if self.queue_url and not self.redis_url:
            raise ValueError("queue_url needs redis_url: either both servers are embedded or none")
        if self.durable_replicas and not (self.redis_url and self.durable):
            raise ValueError(
                "durable_replicas needs durable and redis_url: an embedded registry has no replicas"
            )
        urls = (self.queue_url or self.redis_url or "").split()
        if len(urls) > 1 and self.queue_shards not in (1, len(urls)):
            raise ValueError(
                f"queue_shards is {self.queue_shards}, and queue_url names {len(urls)} servers, "
                "which are one shard each: leave queue_shards out"
            )
        if self.queue_shards > 1 and not all(map(parse_cluster_url, urls or [""])):
            raise ValueError(
                "queue_shards needs a cluster:// URL; outside of a cluster, name a server for each "
                "shard in queue_url, separated by spaces"
            )
        return self
