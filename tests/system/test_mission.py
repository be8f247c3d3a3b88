"""The mission from end to end: any encoder feeds any head, over plain HTTP, with right values.

Real pretrained encoders, raw HTTP requests and no client of the package; the expected values come
from timm and from the formulas, without the service. Once by `stitchwork serve`'s processes, and
once by the command lines of docker-compose.yml.
"""

import base64
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import httpx
import numpy as np
import pytest
import redis
import timm
import torch
from PIL import Image
from sklearn.datasets import load_digits

from stitchwork.models.packaged_encoders import write_efficientnet_lite
from tests.support import containers, machine
from tests.support.cluster import foreign_environment
from tests.support.latent_spaces import Floats
from tests.support.reference_formulas import reference_translation
from tests.support.running_service import running
from tests.support.servers import VALKEY_9, server_binary
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

ENCODERS = {"lite0": "tf_efficientnet_lite0", "lite1": "tf_efficientnet_lite1"}
ANCHORS, SAMPLES, INPUT_SIZE = 64, 12, 64
ADMIN_KEY = "an-admin-key-of-32-characters-or-more"
LABELS = [str(digit) for digit in range(10)]
TOLERANCE = 2e-3
"""Of the largest expected value: a worker computes in float32, and may compile its models."""


class Expected(NamedTuple):
    """Inputs and the right answers to them, computed without the service.

    Attributes:
        weights: A safetensors file for each encoder.
        anchors: The anchor images, as PNG files.
        images: Images that are no anchors.
        absolute: (n, 1280) embeddings of the images by each encoder.
        translated: (n, 1280) those of lite0 in the space of lite1.
        head: The weights of a head in lite1, (10, 1280).
        probabilities: (n, 10) what that head makes of the translated embeddings.
    """

    weights: dict[str, Path]
    anchors: list[bytes]
    images: list[bytes]
    absolute: dict[str, Floats]
    translated: Floats
    head: Any
    probabilities: Floats


class Deployment(NamedTuple):
    """A service under test: where it answers, its queue server, and the headers of a request."""

    url: str
    queue: redis.Redis
    headers: dict[str, str]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The right answers, from timm and plain formulas."""
    folder = tmp_path_factory.mktemp("mission")
    pixels = load_digits().images[: ANCHORS + SAMPLES]
    files = [png(image) for image in pixels]
    weights = {name: write_efficientnet_lite(model, folder) for name, model in ENCODERS.items()}
    rows = {name: embedded_by_timm(ENCODERS[name], weights[name], files) for name in ENCODERS}
    anchors = {name: embeddings[:ANCHORS] for name, embeddings in rows.items()}
    absolute = {name: embeddings[ANCHORS:] for name, embeddings in rows.items()}
    translated = reference_translation(anchors["lite0"], anchors["lite1"], absolute["lite0"])
    # Random weights: what the labels mean does not matter here.
    head = np.random.default_rng(0).normal(size=(10, translated.shape[1])).astype(np.float32)
    logits = translated @ head.T
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return Expected(
        weights, files[:ANCHORS], files[ANCHORS:], absolute, translated, head, probabilities
    )


def png(pixels: Any) -> bytes:
    """A digit of 8 × 8 pixels from 0 to 16, as a PNG file of a photo's size."""
    image = Image.fromarray((pixels * 15).astype(np.uint8)).convert("RGB").resize((64, 64))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def embedded_by_timm(name: str, weights: Path, files: list[bytes]) -> Floats:
    """(n, 1280) float64 features of image files, as timm's documentation computes them."""
    model = timm.create_model(name, checkpoint_path=str(weights)).eval()
    model.reset_classifier(0)
    config = timm.data.resolve_model_data_config(model) | {
        "input_size": (3, INPUT_SIZE, INPUT_SIZE)
    }
    transform = timm.data.create_transform(**config, is_training=False)
    images = [transform(Image.open(BytesIO(file)).convert("RGB")) for file in files]
    with torch.inference_mode():
        features: Floats = model(torch.stack(images)).numpy().astype(np.float64)
    return features


@contextmanager
def served(expected: Expected) -> Iterator[Deployment]:
    """All processes as `stitchwork serve` starts them."""
    roots = (expected.weights["lite0"].parent,)
    with running(roots=roots) as service:
        assert service.queue_url
        with redis.Redis.from_url(service.queue_url) as queue:
            yield Deployment(service.url, queue, {})


@contextmanager
def composed(expected: Expected) -> Iterator[Deployment]:
    """The command lines of docker-compose.yml, on loopback ports instead of its network."""
    ports = {"registry": free_port(), "queue": free_port(), "api": free_port()}
    # What a container has to itself is replaced: addresses, ports and mounted folders.
    replacements = {
        "STITCHWORK_REDIS_URL": (
            "redis://registry:6379/0",
            f"redis://127.0.0.1:{ports['registry']}/0",
        ),
        "STITCHWORK_QUEUE_URL": ("redis://queue:6379/0", f"redis://127.0.0.1:{ports['queue']}/0"),
        "STITCHWORK_ADMIN_KEY": ("${STITCHWORK_ADMIN_KEY:-}", ADMIN_KEY),
        "STITCHWORK_HOST": ("::", "127.0.0.1"),  # the image's, which is replaced
        "STITCHWORK_MODEL_ROOTS": ("/models", str(expected.weights["lite0"].parent)),
        "STITCHWORK_WORKER_PORT": ("9464", str(free_port())),
        "STITCHWORK_PORT": ("8765", str(ports["api"])),
    }
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="sw")))

        def start(name: str, *arguments: str, **extra: str) -> dict[str, str]:
            """Start a container's command; its environment."""
            container = containers.container(name)
            env = dict(container.env)
            env.pop("PATH", None)
            for key, (before, after) in replacements.items():
                if key in env:
                    assert env[key] == before, key
                    env[key] = after
            command = [program(container.command[0]), *container.command[1:], *arguments]
            environment = {**foreign_environment(), "HF_HOME": str(folder), **env, **extra}
            process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
            stack.callback(end, process)
            return environment

        for name in ("registry", "queue"):
            home = folder / name
            home.mkdir()
            start(name, "--bind", "127.0.0.1", "--port", str(ports[name]), "--dir", str(home))
            wait_until(f"{name} answers", partial(answers, ports[name]))
        offline = {"STITCHWORK_OFFLINE": "true", "STITCHWORK_LOG_LEVEL": "warning"}
        environments = {name: start(name, **offline) for name in ("worker", "api")}
        url = f"http://127.0.0.1:{ports['api']}"
        wait_until("the API serves and the worker lives", lambda: is_ready(url), 120)
        for name, environment in environments.items():
            path = f"{containers.ROOT / 'service'}:{os.environ['PATH']}"
            # No proxy is asked for an address of the container itself.
            env = {**environment, "PATH": path, "HTTP_PROXY": "http://127.0.0.1:1"}
            check = containers.container(name).healthcheck
            subprocess.run(check, env=env, check=True, timeout=machine.deadline(60))
        with redis.Redis(port=ports["queue"]) as queue:
            assert httpx.get(f"{url}/spaces").status_code == 401, "a composition needs a key"
            yield Deployment(url, queue, {"Authorization": f"Bearer {ADMIN_KEY}"})


def program(name: str) -> str:
    """Where this machine has a container's program."""
    if name == "valkey-server":
        return server_binary(VALKEY_9).path
    return str(Path(sys.executable).parent / name)


def free_port() -> int:
    """A port of the loopback interface that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Whether a server answers PING on a port."""
    try:
        with redis.Redis(port=port) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


def is_ready(url: str) -> bool:
    """Whether a service reports itself ready, and a live worker."""
    try:
        return httpx.get(f"{url}/health/ready?workers=1", timeout=machine.deadline(30)).is_success
    except httpx.TransportError:
        return False


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process in order, as `docker compose down` does."""
    process.terminate()
    try:
        process.wait(machine.deadline(60))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


@pytest.mark.parametrize("deploy", [served, composed], ids=["serve", "compose"])
def test_any_encoder_feeds_any_head_over_plain_http(expected: Expected, deploy: Any) -> None:
    with (
        deploy(expected) as (url, queue, headers),
        httpx.Client(base_url=url, timeout=machine.deadline(120), headers=headers) as http,
    ):
        versions = register(http, expected)

        # POST /translate: embeddings of lite0, computed elsewhere, in the space of lite1.
        response = http.post(
            "/translate",
            json={
                "source": "lite0",
                "target": "lite1",
                "embeddings": expected.absolute["lite0"].tolist(),
            },
        )
        assert response.status_code == 200, response.text
        assert_close(response.json()["embeddings"], expected.translated)
        assert response.headers["Stitchwork-Source"] == f"lite0@{versions['lite0']}"
        assert response.headers["Stitchwork-Target"] == f"lite1@{versions['lite1']}"

        # POST /stitch/{encoder}/{head}: raw images, by an encoder that the head never met.
        items = [base64.b64encode(image).decode() for image in expected.images]
        response = http.post("/stitch/lite0/digits", json={"items": items, "top": 10})
        assert response.status_code == 200, response.text
        predictions = response.json()["predictions"]
        best = expected.probabilities.argmax(axis=1)
        assert [prediction["label"] for prediction in predictions] == [LABELS[i] for i in best]
        scores = [
            [score["score"] for score in sorted(prediction["top"], key=lambda s: str(s["label"]))]
            for prediction in predictions
        ]
        assert_close(scores, expected.probabilities)

        # Redis holds the inverse of each space by itself, and none of the pair.
        keys = {key.decode() for key in queue.keys("stitchwork:inverse:*")}
        assert f"stitchwork:inverse:exp:{versions['lite0']}" in keys
        for name in ENCODERS:
            assert [key for key in keys if key.endswith(f":{versions[name]}")], (name, keys)
        assert not [key for key in keys if all(version in key for version in versions.values())]

        # The paper's pseudo-inverse is one of them: asked for by its bridge, it appears.
        body = {"source": "lite0", "target": "lite1", "embeddings": [[1.0] * 1280], "bridge": "irp"}
        assert http.post("/translate", json=body).status_code == 200
        pseudo_inverse = f"stitchwork:inverse:irp:{versions['lite1']}"
        wait_until("the pseudo-inverse is in Redis", lambda: queue.exists(pseudo_inverse))


def register(http: httpx.Client, expected: Expected) -> dict[str, str]:
    """Register a set, two spaces and a head by PUT; the versions of the spaces."""
    items = [base64.b64encode(image).decode() for image in expected.anchors]
    response = http.put("/anchor-sets/digits", json={"modality": "image", "items": items})
    assert response.status_code == 201, response.text
    for name, model in ENCODERS.items():
        encoder = {
            "kind": "timm",
            "model": model,
            "weights": str(expected.weights[name]),
            "input_size": INPUT_SIZE,
        }
        response = http.put(f"/spaces/{name}", json={"anchor_set": "digits", "encoder": encoder})
        assert response.status_code == 202, response.text

    def is_registered(name: str) -> bool:
        record = http.get(f"/spaces/{name}").json()
        assert record["status"] != "failed", record
        return bool(record["status"] == "ready")

    for name in ENCODERS:
        wait_until(f"{name} is embedded", partial(is_registered, name), 120)
    head = {"space": "lite1", "weight": expected.head.tolist(), "labels": LABELS}
    response = http.put("/heads/digits", json=head)
    assert response.status_code == 201, response.text
    return {name: http.get(f"/spaces/{name}").json()["version"] for name in ENCODERS}


def assert_close(rows: Any, expected: Floats) -> None:
    """Whether rows of numbers are the expected ones, but for rounding."""
    tolerance = TOLERANCE * np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(rows), expected, rtol=0, atol=tolerance)
