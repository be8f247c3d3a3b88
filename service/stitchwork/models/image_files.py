"""Decodes image files: formats, orientation, transparency and limits."""

import io
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from stitchwork.errors import (
    ErrorCode,
    InputTooLargeError,
    InvalidInputError,
    UnsupportedFormatError,
)
from stitchwork.models.encoder import MAX_PIXELS
from stitchwork.resources import Item

FORMATS: Final = ("JPEG", "PNG", "WEBP")
JPEG_SIGNATURE: Final = b"\xff\xd8"
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten scans; each costs a pass over all pixels, however small."""
SCAN: Final = b"\xff\xda"
"""Marks the start of a scan; it cannot occur within the data of one."""
MAX_ASPECT_RATIO: Final = 32
"""Images are scaled by their short side, so a long one takes far more memory than its file."""

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
        UnsupportedFormatError: If it is not a JPEG, PNG or WebP file.
        InputTooLargeError: If it has too many pixels or scans; it is then not decoded.
        InvalidInputError: If it is truncated, corrupt, or too elongated.
    """
    if isinstance(item, str):
        raise InvalidInputError("expected an image file", pointer=pointer)
    if item.startswith(JPEG_SIGNATURE) and item.count(SCAN) > MAX_SCANS:
        raise InputTooLargeError(
            f"expected at most {MAX_SCANS} scans in a JPEG file, got {item.count(SCAN)}",
            pointer=pointer,
            code=ErrorCode.TOO_MANY_SCANS,
        )
    try:
        image: Image.Image = Image.open(io.BytesIO(item), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise InputTooLargeError(
                f"expected at most {max_pixels} pixels (max_image_pixels), got {image.width} x "
                f"{image.height}",
                pointer=pointer,
                code=ErrorCode.TOO_MANY_PIXELS,
            )
        if max(image.size) > MAX_ASPECT_RATIO * min(image.size):
            raise InvalidInputError(
                f"expected an aspect ratio of at most {MAX_ASPECT_RATIO}, got {image.width} x "
                f"{image.height}",
                pointer=pointer,
            )
        image.load()
        image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UnsupportedFormatError(
            f"expected a file of {', '.join(FORMATS)}", pointer=pointer
        ) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InvalidInputError(
            "the image file is truncated or corrupt", pointer=pointer
        ) from error
    return _rgb(image)


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
