"""Writes the first seeds of the corpus: `python -m tests.fuzz.seeds`."""

import io
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
from PIL import Image
from safetensors.numpy import save

from stitchwork.errors import InvalidInputError
from stitchwork.queue.messages import Job, Reply
from stitchwork.redis.serialization import CHECKSUM_BYTES, MAGIC, pack
from stitchwork.resources import TextEncoder

CORPUS: Final = Path(__file__).parent / "corpus"


def npy_file(rows: Any) -> bytes:
    """Rows as an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, rows)
    return buffer.getvalue()


def image_file(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """A small image file."""
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(10, 12, 3)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def seeds() -> dict[str, list[bytes]]:
    """Valid bytes for each target."""
    rows = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    head = {"0.weight": rows, "0.bias": rows[:, 0], "2.weight": rows[:, :2], "2.bias": rows[0, :2]}
    bodies: list[Any] = [
        {"source": "x", "target": "y", "embeddings": [[1, 2.5], [-3e2, 0]]},
        {"space": "y", "labels": ["a", "b"], "weight": [[1, 2], [3, 4]], "bias": [0, 1]},
        {"anchor_set": "s", "anchors": [[1], [2]], "ids": ["p", "q"], "irp": {"delta": 0.5}},
        {"modality": "text", "items": ["one", "two"], "ids": ["p", "q"]},
        {"items": ["a"], "top": 2, "bridge": "irp"},
        {"labels": ["a", "b"], "encoding_format": "base64", "embeddings": ["AACAPw==", "AAAAQA=="]},
        {"space": "x", "encoding_format": "base64", "embeddings": ["AACAPw=="], "top": 1},
    ]
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    form = part % (b"modality", b"", b"image") + part % (b"items", b'; filename="f"', b"\x89PNG")
    encoder = TextEncoder(model="m")
    exif = Image.Exif()
    exif[0x0112] = 6
    checksum_end = len(MAGIC) + CHECKSUM_BYTES
    job = Job(id="1", reply_to="a", encoder=encoder).pack(["one", "two"])
    marks = np.array([True, False]), np.array([True, True])
    answered = Reply("1", rows, *marks, np.ones(len(rows)), (0,)).pack()
    refused = Reply("1", error=InvalidInputError("m", pointer="/items/0")).pack()
    error = {"kind": "InvalidInputError", "message": "m", "pointer": "/items/0", "code": "c"}
    of_first_format = pack({}, {"job": "1", "error": error})
    replies = [answered, refused, of_first_format]
    return {
        "npy": [npy_file(rows), npy_file(np.asfortranarray(rows.astype(np.float64)))],
        "safetensors": [
            save({"embeddings": rows}, {"source": "x", "target": "y"}),
            save(head, {"labels": '["a", "b"]', "activation": "relu"}),
            save({"embeddings": rows.astype(np.float16)}),
        ],
        "json": [bytes([i]) + orjson.dumps(body) for i, body in enumerate(bodies)],
        "raw": [
            b'\x01{"item": "one", "id": "p"}\n{"item": "two", "id": "q"}\n',
            b"\x00" + form + b"--b--\r\n",
        ],
        "image": [
            image_file("PNG"),
            image_file("PNG", "P"),
            image_file("PNG", "RGBA"),
            image_file("JPEG", exif=exif),
            image_file("JPEG", "CMYK"),
            image_file("JPEG", progressive=True),
            image_file("WEBP"),
            image_file("WEBP", lossless=True),
        ],
        "store": [pack({"a": rows, "b": rows > 0}, {"k": [1, None]})[checksum_end:]],
        "queue": [message[checksum_end:] for message in (job, *replies)],
    }


if __name__ == "__main__":
    for target, files in seeds().items():
        (CORPUS / target).mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(files):
            (CORPUS / target / f"seed-{i}").write_bytes(data)
