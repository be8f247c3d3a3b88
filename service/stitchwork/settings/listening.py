"""The settings of an API's address, and of what is in front of it."""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Any, Final, Self

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from stitchwork.addresses import is_loopback

ANY: Final = "*"
_ROOT_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_ORIGIN: Final = re.compile(r"https?://[^/?#\s]+")


class ListeningSettings(BaseSettings):
    """Where an API listens, and which proxies and pages of other origins it serves."""

    host: str = Field(
        "127.0.0.1",
        description="Address that the API listens on; `::` takes IPv4 as well.",
    )
    port: int = Field(
        8765, ge=0, le=65_535, description="Port that the API listens on; 0 takes a free one."
    )
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="Port on `host` of the gRPC API, by TLS as `port`; unset: none.",
    )
    unix_socket: Path | None = Field(
        None, description="Path of a Unix socket that the API listens on, instead of an address."
    )
    tls_cert_file: Path | None = Field(
        None, description="File of the certificates (PEM) that the API serves by TLS with."
    )
    tls_key_file: Path | None = Field(None, description="File of the private key (PEM) for them.")
    root_path: str = Field(
        "",
        description="Path under which a proxy publishes the API, such as `/stitchwork`; requests "
        "may have it or not.",
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        ("127.0.0.1", "::1"),
        description="Addresses and networks of the proxies whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed, separated by commas; `*`: any.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of the pages that may read answers in a browser, as "
        "`https://app.example.com`, separated by commas; `*`: any.",
    )
    keep_alive_seconds: int = Field(
        75,
        ge=1,
        le=86_400,
        description="Time after which an idle connection is closed; longer than that of a load "
        "balancer in front, so that it closes them.",
    )

    @field_validator("root_path")
    @classmethod
    def _check_root_path(cls, value: str) -> str:
        path = value.rstrip("/")
        if not _ROOT_PATH.fullmatch(path):
            raise ValueError("expected a path such as /stitchwork, of letters, digits and . _ ~ -")
        return path

    @field_validator("trusted_proxies", "cors_origins", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for address in value:
            try:
                if address != ANY:
                    ipaddress.ip_network(address)
            except ValueError as error:
                raise ValueError(
                    f"expected addresses, networks such as 10.0.0.0/8, or *: {error}"
                ) from error
        return _alone(value)

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != ANY and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"expected origins such as https://app.example.com, or *, got {origin!r}"
                )
        return _alone(value)

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("expected both tls_cert_file and tls_key_file, or none of them")
        return self

    @property
    def is_local(self) -> bool:
        """Whether only processes of this machine reach the API without a proxy."""
        return self.unix_socket is not None or is_loopback(self.host)


def _alone(value: tuple[str, ...]) -> tuple[str, ...]:
    if ANY in value and len(value) > 1:
        raise ValueError("expected * alone, or a list without it")
    return value
