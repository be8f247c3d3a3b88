"""Decodes image files: formats, orientation, transparency and limits."""

import io
import re
import struct
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Final

import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features

from stitchwork.errors import (
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    UnsupportedFormatError,
)
from stitchwork.models.coded_sizes import coded_sizes
from stitchwork.models.encoder import MAX_PIXELS
from stitchwork.models.memory import release_memory
from stitchwork.resources import Item

JPEG_SIGNATURE: Final = b"\xff\xd8"
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten scans; each costs a pass over all pixels, however small."""
MARKER: Final = re.compile(rb"\xff+([\x02-\xcf\xd8-\xfe])")
"""A marker of a JPEG file that is not part of the data of a scan."""
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = b"\xd8", b"\xd9", b"\xda"
MAX_ASPECT_RATIO: Final = 32
"""Images are scaled by their short side, so a long one takes far more memory than its file."""
LARGE_PIXELS: Final = 16_000_000
"""After an image with more pixels than this, freed memory is returned to the system."""
CODED_FORMATS: Final = ("AVIF", "HEIF")
"""Formats whose container and coded data declare sizes apart."""
TIFF_TILE_WIDTH, TIFF_TILE_LENGTH = 322, 323


def _formats() -> tuple[str, ...]:
    formats = ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]
    if features.check("avif"):
        formats.append("AVIF")
    if find_spec("pillow_heif"):
        from pillow_heif import register_heif_opener

        register_heif_opener(thumbnails=False)
        formats.append("HEIF")
    return tuple(formats)


DECODER_ERRORS: Final = (
    ArithmeticError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)
"""What decoders raise for files that are truncated or corrupt."""
FORMATS: Final = _formats()
"""Formats that are decoded: HEIF only with the package `pillow-heif`."""

# `decode` checks the number of pixels itself; Pillow's limit may be lower than a configured one.
Image.MAX_IMAGE_PIXELS = None


def decode(item: Item, pointer: str, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image file to RGB, upright; of an animation, the first frame.

    Args:
        item: Content of the file.
        pointer: JSON pointer to the item in the request.
        max_pixels: Maximum pixels of the image.

    Returns:
        The image; transparent pixels are composited on white.

    Raises:
        UnsupportedFormatError: If it has none of the formats, or floating-point pixels.
        InputTooLargeError: If it has too many pixels or scans; it is then not decoded.
        InvalidInputError: If it is truncated, corrupt, or too elongated.
    """
    if isinstance(item, str):
        raise InvalidInputError("expected an image file", pointer=pointer)
    if item.startswith(JPEG_SIGNATURE) and count_scans(item) > MAX_SCANS:
        raise InputTooLargeError(
            f"expected at most {MAX_SCANS} scans in a JPEG file, got more",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_SCANS,
        )
    try:
        image: Image.Image = Image.open(io.BytesIO(item), formats=FORMATS)
        width, height = _decoded_size(image)
        if width * height > max_pixels:
            raise InputTooLargeError(
                f"expected at most {max_pixels} pixels (max_image_pixels), got {width} x {height}",
                pointer=pointer,
                code=ErrorCode.TOO_MANY_PIXELS,
            )
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise InvalidInputError(
                f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {image.width} x "
                f"{image.height}",
                pointer=pointer,
            )
        if image.format in CODED_FORMATS:
            _check_coded_sizes(item, image, max_pixels, pointer)
        if image.mode == "F":
            raise UnsupportedFormatError(
                "expected pixels of 8 or 16 bits, got floating-point numbers", pointer=pointer
            )
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(
            f"expected a file of {', '.join(FORMATS)}", pointer=pointer
        ) from error
    except DECODER_ERRORS as error:
        raise InvalidInputError(
            "the image file is truncated or corrupt", pointer=pointer
        ) from error
    return _rgb(image)


def prepare_images(
    items: Sequence[Item],
    transform: Callable[[Image.Image], torch.Tensor],
    max_pixels: int,
    device: torch.device,
    progress: Callable[[], None] = lambda: None,
) -> list[torch.Tensor]:
    """Decode and transform image files, one at a time.

    Decoded images are far larger than the inputs of a model, and the memory of large ones is
    returned to the system at the end.

    Args:
        items: Contents of the files.
        transform: Maps an RGB image to the input of a model.
        max_pixels: Maximum pixels of an image.
        device: The device whose memory is released.
        progress: Called after each image.

    Raises:
        StitchworkError: As `decode`; the pointer `/items/{i}` names the item.
    """
    tensors, largest = [], 0
    for i, item in enumerate(items):
        image = decode(item, f"/items/{i}", max_pixels)
        largest = max(largest, image.width * image.height)
        tensors.append(transform(image))
        del image
        progress()
    if largest > LARGE_PIXELS:
        release_memory(device)
    return tensors


def count_scans(data: bytes) -> int:
    """The scans of the first image of a JPEG file, up to one more than `MAX_SCANS`.

    What follows the end of the image, such as the video of a motion photo, is not decoded.

    Args:
        data: Content of the file.
    """
    position, scans = 0, 0
    while scans <= MAX_SCANS and (match := MARKER.search(data, position)):
        position = match.end()
        if match[1] == END_OF_IMAGE:
            break
        if match[1] != START_OF_IMAGE:
            scans += match[1] == START_OF_SCAN
            position += int.from_bytes(data[position : position + 2])
    return scans


def _decoded_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that decoding takes memory for: an image's own, or a TIFF file's tile."""
    tags = getattr(image, "tag_v2", {})
    tile = [tags.get(tag) for tag in (TIFF_TILE_WIDTH, TIFF_TILE_LENGTH)]
    width, height = (side if isinstance(side, int) else 0 for side in tile)
    return max(image.width, width), max(image.height, height)


def _check_coded_sizes(data: bytes, image: Image.Image, max_pixels: int, pointer: str) -> None:
    """Refuse an image whose coded data are larger than its file declares it to be."""
    for size in coded_sizes(data):
        if size.pixels > max_pixels:
            parts = "" if size.pixels == size.width * size.height else ", the largest of several"
            raise InputTooLargeError(
                f"expected at most {max_pixels} pixels (max_image_pixels), got {size.pixels} in "
                f"coded images ({size.width} x {size.height}{parts}) of a file that declares "
                f"{image.width} x {image.height}",
                pointer=pointer,
                code=ErrorCode.TOO_MANY_PIXELS,
            )


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: keep the upper eight bits.
        return image.point(lambda value: value * (1 / 256)).convert("L").convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, (255, 255, 255))
        white.paste(rgba, mask=rgba)
        return white
    return image if image.mode == "RGB" else image.convert("RGB")
