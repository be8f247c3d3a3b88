"""Sizes of images, read from the headers of their files in bounded time, without decoding.

Libraries that do so read as much of a hostile file as it tells them to; here a few reads suffice,
and a file that needs more has no size.
"""

import re
import struct
from collections.abc import Callable
from typing import Final

MAX_SEGMENTS: Final = 256
"""Segments before the frame of a JPEG file; each has up to 64 KiB, and cameras write about 20."""
MAX_BOXES: Final = 64
"""Images, such as tiles and thumbnails, that a HEIF file describes."""
MAX_TAGS: Final = 512
HEADER_BYTES: Final = 1 << 20
"""How far into a HEIF file the sizes of its images are."""
MARKER: Final = re.compile(rb"\xff{1,64}([\x01-\xfe])")
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a JPEG file whose segments have the size of the image."""
TIFF_SIZES: Final = {256: 0, 257: 1, 322: 0, 323: 1}
"""Tags of a TIFF file with the width and height of the image or of a tile."""


def image_pixels(data: bytes | memoryview) -> int | None:
    """The number of pixels of an image file.

    Args:
        data: Content of a JPEG, PNG, GIF, BMP, WebP, TIFF, AVIF or HEIF file.

    Returns:
        Width times height; None if the file has no header that tells them.
    """
    for signature, read in _READERS.items():
        if signature.match(data):
            try:
                width, height = read(data)
            except (struct.error, IndexError):
                return None
            return width * height or None
    return None


def _png(data: bytes | memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", data, 16)
    return width, height


def _gif(data: bytes | memoryview) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", data, 6)
    return width, height


def _bmp(data: bytes | memoryview) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", data, 18)
    return abs(width), abs(height)


def _webp(data: bytes | memoryview) -> tuple[int, int]:
    kind = data[12:16]
    if kind == b"VP8X":
        return _uint24(data, 24) + 1, _uint24(data, 27) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(data: bytes | memoryview) -> tuple[int, int]:
    position = 2
    for _ in range(MAX_SEGMENTS):
        match = MARKER.match(data, position)
        if match is None:
            break
        position, marker = match.end(), match[1][0]
        if marker in FRAMES:
            height, width = struct.unpack_from(">HH", data, position + 3)
            return width, height
        (length,) = struct.unpack_from(">H", data, position)
        position += length
    return 0, 0


def _tiff(data: bytes | memoryview) -> tuple[int, int]:
    order = "<" if bytes(data[:2]) == b"II" else ">"
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    sides = [0, 0]
    for i in range(min(count, MAX_TAGS)):
        offset = start + 2 + 12 * i
        tag, kind = struct.unpack_from(f"{order}HH", data, offset)
        if tag in TIFF_SIZES:
            form = f"{order}H" if kind == 3 else f"{order}I"
            (side,) = struct.unpack_from(form, data, offset + 8)
            sides[TIFF_SIZES[tag]] = max(sides[TIFF_SIZES[tag]], side)
    return sides[0], sides[1]


def _heif(data: bytes | memoryview) -> tuple[int, int]:
    largest, position = (0, 0), 0
    data = bytes(data[:HEADER_BYTES])
    for _ in range(MAX_BOXES):
        position = data.find(b"ispe", position)
        if position < 0:
            break
        width, height = struct.unpack_from(">II", data, position + 8)
        largest = max(largest, (width, height), key=lambda size: size[0] * size[1])
        position += 4
    return largest


def _uint24(data: bytes | memoryview, position: int) -> int:
    return data[position] | data[position + 1] << 8 | data[position + 2] << 16


_READERS: Final[dict[re.Pattern[bytes], Callable[[bytes | memoryview], tuple[int, int]]]] = {
    re.compile(rb"\xff\xd8"): _jpeg,
    re.compile(rb"\x89PNG\r\n\x1a\n"): _png,
    re.compile(rb"RIFF....WEBP", re.DOTALL): _webp,
    re.compile(rb"GIF8"): _gif,
    re.compile(rb"BM"): _bmp,
    re.compile(rb"II\*\0|MM\0\*"): _tiff,
    re.compile(rb"....ftyp", re.DOTALL): _heif,
}
