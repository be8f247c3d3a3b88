"""Sizes of images by their headers, against the library that decodes them."""

import io
import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from stitchwork.models.image_files import FORMATS
from stitchwork.queue.image_headers import image_pixels
from tests.support.images import file, picture

KINDS: list[tuple[str, dict[str, Any]]] = [
    ("JPEG", {}),
    ("JPEG", {"progressive": True, "exif": b"Exif\0\0" + b"\0" * 60_000}),
    ("PNG", {}),
    ("WEBP", {}),
    ("WEBP", {"lossless": True}),
    ("WEBP", {"save_all": True, "append_images": [picture(128, 64, "L")]}),
    ("GIF", {}),
    ("BMP", {}),
    ("TIFF", {}),
    ("TIFF", {"compression": "jpeg", "big_endian": True}),
    ("AVIF", {}),
    ("HEIF", {}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=lambda value: str(value)[:24])
def test_pixels_of_a_header_are_those_of_the_image(kind: str, options: dict[str, Any]) -> None:
    if kind not in FORMATS:
        pytest.skip(f"{kind} is not decoded here")
    data = file(picture(128, 64), kind, **options)
    assert image_pixels(data) == 128 * 64


def test_size_of_the_first_image_counts_not_that_of_a_thumbnail() -> None:
    thumbnail = file(picture(16, 12), "JPEG")
    exif = b"Exif\0\0" + thumbnail
    assert image_pixels(file(picture(128, 64), "JPEG", exif=exif)) == 128 * 64


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM", b"GIF89a", b"II*\0", b"RIFF1234WEBP", b"no"],
)
def test_file_without_a_size_has_none(data: bytes) -> None:
    assert image_pixels(data) is None


@given(st.sampled_from([kind for kind, _ in KINDS if kind in FORMATS]), st.data())
def test_damaged_header_has_a_size_or_none(kind: str, data: st.DataObject) -> None:
    content = bytearray(file(picture(8, 6), kind))
    for position in data.draw(st.lists(st.integers(0, min(200, len(content) - 1)), max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    pixels = image_pixels(bytes(content[:end]))
    assert pixels is None or pixels > 0


def test_header_of_a_hostile_file_is_read_in_the_time_of_an_honest_one() -> None:
    def seconds(content: bytes) -> float:
        start = time.thread_time()
        for _ in range(100):
            image_pixels(content)
        return time.thread_time() - start

    honest = io.BytesIO()
    Image.new("RGB", (8, 8)).save(honest, "JPEG", exif=b"Exif\0\0" + b"\0" * 60_000)
    segments = b"\xff\xd8" + b"\xff\xe1\0\2" * 4_000_000
    boxes = b"\0\0\0\0ftypavif" + b"ispe" * 4_000_000
    tags = b"II*\0" + struct.pack("<IH", 8, 65_535) + b"\0\1" * 8_000_000
    fill = b"\xff\xd8" + b"\xff" * 16_000_000
    unit = seconds(honest.getvalue())
    for content in (segments, boxes, tags, fill):
        assert seconds(content) < 1_000 * unit
