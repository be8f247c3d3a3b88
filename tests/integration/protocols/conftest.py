"""A service with a worker, and spaces of texts, images and vectors."""

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import httpx
import numpy as np
import pytest
from PIL import Image

from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import minilm_folder, write_efficientnet_lite
from tests.support import machine
from tests.support.ports import unused_port
from tests.support.running_service import running

THINGS = ["the river", "my phone", "a small dog", "the new law", "our kitchen", "the old train"]
CLAIMS = ["is broken", "costs too much", "makes everybody happy", "will be gone", "looks better"]
TEXTS = [f"{thing} {claim}" for thing in THINGS for claim in CLAIMS]
WIDTH = 256


class World(NamedTuple):
    """A running service.

    Attributes:
        url: Where it listens.
        grpc: Where its gRPC API listens.
        http: A plain HTTP client for it.
        images: PNG files.
    """

    url: str
    grpc: str
    http: httpx.Client
    images: list[bytes]


def block_image(seed: int) -> bytes:
    """A PNG file of coloured blocks."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(blocks).resize((32, 32), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Spaces `minilm` of texts, `turned` of its rotated anchors and `lite` of images, with heads.

    Head `topic` is of `turned`, head `shade` of `lite`.
    """
    images = [block_image(seed) for seed in range(8)]
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(384, WIDTH)))[0]
    with TemporaryDirectory() as folder:
        weights = write_efficientnet_lite("tf_efficientnet_lite0", Path(folder))
        lite = {"kind": "timm", "model": "tf_efficientnet_lite0", "weights": str(weights)}
        roots = (minilm_folder(), Path(folder))
        port = unused_port()
        with (
            running(
                roots=roots,
                STITCHWORK_MAX_ITEMS="40",
                STITCHWORK_ITEMS_PER_JOB="8",
                STITCHWORK_GRPC_PORT=str(port),
                STITCHWORK_MAX_BODY_BYTES="2000000",
                STITCHWORK_MODEL_ALIASES="BAAI/bge:latest=minilm->turned",
            ) as service,
            Stitchwork(service.url) as client,
            httpx.Client(base_url=service.url, timeout=machine.deadline(60)) as http,
        ):
            client.put_anchor_set("texts", "text", items=TEXTS)
            client.put_anchor_set("images", "image", items=images)
            spec = {"kind": "transformers", "model": str(minilm_folder())}
            client.put_space("minilm", "texts", encoder=spec)
            client.put_space("lite", "images", encoder=lite | {"input_size": 32})
            client.wait("spaces", "minilm")
            rows = client.embed("minilm", TEXTS)
            client.put_space("turned", "texts", anchors=(rows @ rotation).astype(np.float32) * 3)
            topics = [thing for thing in THINGS for _ in CLAIMS]
            fit = {"embeddings": (rows @ rotation * 3).tolist(), "labels": topics}
            client.put_head("topic", "turned", fit=fit)
            client.wait("spaces", "lite")
            shades = np.random.default_rng(1).normal(size=(3, 1280)).tolist()
            head = {"space": "lite", "weight": shades, "labels": ["dark", "mid", "bright"]}
            assert http.put("/heads/shade", json=head).status_code == 201
            client.wait("heads", "topic")
            yield World(service.url, f"127.0.0.1:{port}", http, images)


def to_base64(image: bytes) -> str:
    return base64.b64encode(image).decode()
