"""Where the gRPC API listens; its packages are an extra, and are not needed to say so."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class GrpcAddress:
    """Where the gRPC API listens.

    Attributes:
        host: A name or an address.
        port: The port; 0 takes a free one.
        is_shared: Whether other processes of the service listen there as well.
        tls_cert_file: Certificates that it serves by TLS with; None for no TLS.
        tls_key_file: The private key for them.
    """

    host: str
    port: int
    is_shared: bool = False
    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
