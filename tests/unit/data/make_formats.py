"""Makes `formats_8_7.json` beside this file: messages of format 8 and records of format 7.

It runs with a release that has these formats, at a checkout of its commit:

    PYTHONPATH=CHECKOUT/service python make_formats.py

Written is what that release packs and stores, and what it stands for.
"""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from stitchwork.errors import InvalidInputError
from stitchwork.geometry.classifier import mlp
from stitchwork.geometry.frame import Frame
from stitchwork.queue.messages import FORMAT, Job, Reply, registration_job
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.registry import stored_records
from stitchwork.registry.declarations import SpaceDeclaration, anchor_set_record, space_record
from stitchwork.registry.head_records import define_head, head_record
from stitchwork.resources import ImageEncoder, Registration, TextEncoder, VisionEncoder, pack_items

TARGET = Path(__file__).parent / f"formats_{FORMAT}_{stored_records.FORMAT}.json"


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def main() -> None:
    words = TextEncoder(model="words", pooling="mean", prompts={"query": "query: "}, truncate=True)
    rng = np.random.default_rng(0)
    anchor_set = anchor_set_record("S", "text", pack_items(list("abcdefgh")), None, None)
    spaces = {}
    for name, encoder in (("x", words), ("y", VisionEncoder(model="pictures"))):
        anchors = rng.normal(size=(8, 4)).astype(np.float32)
        declaration = SpaceDeclaration(name, "S", anchors=anchors, encoder=encoder)
        frame = Frame.from_anchors(anchors)
        spaces[name] = space_record(declaration, anchor_set, anchors, frame, 0.9, f"version-{name}")
    layers = ((np.ones((3, 4), np.float32), np.zeros(3)), (np.ones((2, 3), np.float32), np.ones(2)))
    head = head_record("h", "y", define_head(mlp(layers), ["a", "b"]), "version-h", "weights")
    registration = Registration(
        kind="head",
        id="h",
        version="2",
        encoder=words,
        parent="space:y",
        declared={"space": "y", "source": "fit", "labels": ["a", "b"]},
        done=3,
        total=8,
    )
    jobs: list[tuple[Job, list[Any]]] = [
        (
            Job(id="1", reply_to="api", encoder=words, input_type="query", request_id="r"),
            ["a", "b"],
        ),
        (
            Job(
                id="2",
                reply_to="api",
                encoder=words,
                source=spaces["x"],
                target=spaces["y"],
                head=head,
                bridge="ridge",
                traceparent="00-1-2-01",
            ),
            ["a text"],
        ),
        (Job(id="3", reply_to="api", encoder=ImageEncoder(model="resnet18")), [b"\x89PNG"]),
        (
            Job(id="4", reply_to="api", encoder=words, task="tokenize", special_tokens=False),
            ["a text"],
        ),
        (registration_job(registration), []),
    ]
    rows = np.ones((2, 3), np.float32)
    replies = [
        Reply("1", rows, [True, False], [True, True], [1.0, 2.0], (1,), 7, "query"),
        Reply("2", error=InvalidInputError("expected a text", pointer="/items/0")),
        Reply("4", content=b'["a text"]'),
    ]
    status = WorkerStatus(
        worker="w", serves=("words",), loaded=("k",), refused={"x": "other files"}
    )
    records = (anchor_set, *spaces.values(), head, registration)
    content = {
        "jobs": [
            {
                "bytes": text(job.pack(items)),
                "fields": job.model_dump(mode="json"),
                "items": [item if isinstance(item, str) else text(item) for item in items],
            }
            for job, items in jobs
        ],
        "replies": [text(reply.pack()) for reply in replies],
        "status": json.loads(status.model_dump_json()),
        "records": [
            {
                "kind": type(record).__name__,
                "bytes": stored_records.dump_record(record).decode(),
                "fields": record.model_dump(mode="json"),
            }
            for record in records
        ],
    }
    TARGET.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
