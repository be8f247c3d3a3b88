"""What `stitchwork serve` listens on: TLS, both families of addresses, and a Unix socket."""

import json
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import grpc
import httpx
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support import machine
from tests.support.ports import unused_port
from tests.support.processes import read_until, without_settings
from tests.support.waiting import wait_until


@contextmanager
def serving(*options: str) -> Iterator[tuple[str, Path]]:
    """The address that a service prints, and the file of its log."""
    with TemporaryDirectory(prefix="sw") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-P", "-m", "stitchwork", "serve", "--workers", "0"]
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [*command, "--data-dir", folder, *options],
                env=without_settings(),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            try:
                yield read_until(process.stdout, "listens on").split()[-1], log
            finally:
                process.terminate()
                code = process.wait(machine.deadline(60))
        assert code == 0


def health_check(port: int, authority: Path) -> str:
    """The status of gRPC's health check by TLS, or the code of the call's error."""
    credentials = grpc.ssl_channel_credentials(authority.read_bytes())
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=machine.deadline(30)
            )
        except grpc.RpcError as error:
            return str(error.code().name)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def test_service_with_certificates_serves_by_tls_on_both_families(certificates: Path) -> None:
    names = ("--tls-cert-file", "server.pem"), ("--tls-key-file", "server.key")
    files = [word for option, name in names for word in (option, str(certificates / name))]
    host = "::" if socket.has_dualstack_ipv6() else "127.0.0.1"
    grpc_port = unused_port()
    options = ("--host", host, "--port", "0", "--no-require-keys", "--grpc-port", str(grpc_port))
    with serving(*options, *files) as (url, log):
        address = httpx.URL(url)
        assert address.scheme == "https"
        trusted = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
        # The certificate names the address of IPv4.
        local = f"https://127.0.0.1:{address.port}"
        forwarded = {"X-Forwarded-For": "203.0.113.9"}
        with httpx.Client(base_url=local, verify=trusted, timeout=machine.deadline(30)) as http:
            assert http.get("/info", headers=forwarded).status_code == 200
            # Larger than a packet of TLS.
            rows = np.random.default_rng(0).normal(size=(2_000, 16))
            body = {"anchor_set": "S", "anchors": rows.tolist()}
            assert http.put("/spaces/x", json=body).status_code == 201
            assert len(http.get("/openapi.json").content) > 100_000
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{local}/info", timeout=machine.deadline(30))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{address.port}/info", timeout=machine.deadline(30))
        assert health_check(grpc_port, certificates / "ca.pem") == "SERVING"
        assert health_check(grpc_port, certificates / "other.pem") == "UNAVAILABLE"
        # IPv4 clients of a socket for both families are known by their IPv4 addresses.
        wait_until("the request is logged", lambda: '"client":"203.0.113.9"' in log.read_text())


def test_service_on_a_unix_socket_believes_what_its_clients_forward() -> None:
    with TemporaryDirectory(prefix="sw") as folder:
        path = Path(folder) / "api.sock"
        with serving("--unix-socket", str(path)) as (url, log):
            assert url == f"unix:{path}"
            transport = httpx.HTTPTransport(uds=str(path))
            with httpx.Client(
                transport=transport, base_url="http://localhost", timeout=machine.deadline(30)
            ) as http:
                forwarded = {"X-Forwarded-For": "203.0.113.9"}
                assert http.get("/info").json()["name"] == "stitchwork"
                assert http.get("/info", headers=forwarded).status_code == 200

            def clients() -> list[str]:
                records = [json.loads(x) for x in log.read_text().splitlines() if x[:1] == "{"]
                return [r["client"] for r in records if r.get("route") == "/info"]

            wait_until("both requests are logged", lambda: len(clients()) == 2)
            assert clients() == ["unix", "203.0.113.9"]
        assert not path.exists()
