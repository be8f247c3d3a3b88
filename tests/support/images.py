"""Image files for tests."""

import io
import zlib
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    """An image of random pixels, the same each time."""
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_with_header(side: int) -> bytes:
    """A PNG file of 8 by 8 pixels whose header declares a larger side."""
    header = file(Image.new("1", (8, 8)))
    size = side.to_bytes(4, "big")
    chunk = b"IHDR" + size + size + header[24:29]
    return header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]
