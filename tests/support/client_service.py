"""A service for the clients of others: spaces of texts, and one translated by rotated anchors.

`python -m tests.support.client_service FILE` runs it until it is terminated, and writes its URL.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from stitchwork.client import Stitchwork
from stitchwork.models.packaged_encoders import minilm_folder
from tests.support.running_service import running

TOPICS = ("the river", "my card", "a small dog", "the new law", "our kitchen", "the old train")
STATES = ("is late", "was stolen", "costs too much", "is broken", "looks better", "will be gone")
ANCHORS = [f"{topic} {state}" for topic in TOPICS for state in STATES]


@contextmanager
def client_service() -> Iterator[str]:
    """Run the service; its URL."""
    with running(roots=(minilm_folder(),)) as service, Stitchwork(service.url) as client:
        client.put_anchor_set("texts", "text", items=ANCHORS)
        encoder: dict[str, object] = {"kind": "transformers", "model": str(minilm_folder())}
        client.put_space("minilm", "texts", encoder=encoder)
        client.wait("spaces", "minilm")
        rows = client.embed("minilm", ANCHORS)
        rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(384, 256)))[0]
        # Clients of NVIDIA's services send an input type to every model.
        prompts = {"query": "", "passage": ""}
        client.put_space("unprompted", "texts", encoder=encoder | {"prompts": prompts})
        client.wait("spaces", "unprompted")
        client.put_space("other", "texts", anchors=(rows @ rotation).astype(np.float32))
        yield service.url


if __name__ == "__main__":
    with client_service() as url:
        Path(sys.argv[1]).write_text(url)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
