"""Decoding of image files: formats, modes, orientation and limits."""

import zlib

import numpy as np
import pytest
from PIL import Image

from stitchwork.errors import InputTooLargeError, InvalidInputError, UnsupportedFormatError
from stitchwork.models.encoder import MAX_PIXELS
from stitchwork.models.image_files import decode
from tests.support.images import file, picture


@pytest.mark.parametrize(
    "image",
    [
        file(picture(mode="L")),
        file(picture(mode="RGBA")),
        file(picture(mode="LA")),
        file(picture(mode="P")),
        file(picture(mode="1")),
        file(picture(), "JPEG"),
        file(picture(mode="CMYK"), "JPEG"),
        file(picture(), "WEBP"),
        file(picture(1, 1)),
        file(picture(), "WEBP", save_all=True, append_images=[picture(mode="L")]),
        file(Image.fromarray(np.full((8, 8), 40_000, np.uint16))),
    ],
)
def test_every_kind_of_file_becomes_rgb(image: bytes) -> None:
    assert decode(image, "/items/0").mode == "RGB"


def test_sixteen_bit_images_keep_their_brightness() -> None:
    grey = decode(file(Image.fromarray(np.full((8, 8), 32_768, np.uint16))), "/items/0")
    assert abs(grey.getpixel((0, 0))[0] - 128) <= 1  # type: ignore[index]


def test_transparent_pixels_become_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert decode(file(clear), "/items/0").getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(file(picture(40, 30), "JPEG", exif=exif), "/items/0").size == (30, 40)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", UnsupportedFormatError),
        (b"not an image", UnsupportedFormatError),
        (file(picture(), "GIF"), UnsupportedFormatError),
        (file(picture(), "TIFF"), UnsupportedFormatError),
        (file(picture(200, 200), "JPEG")[:2000], InvalidInputError),
        (file(picture(200, 200))[:2000], InvalidInputError),
        (file(Image.new("1", (10_000, 10_000))), InputTooLargeError),
        (file(Image.new("1", (1, 4000))), InvalidInputError),
    ],
)
def test_invalid_files_are_refused(data: bytes, kind: type[InvalidInputError]) -> None:
    with pytest.raises(kind) as raised:
        decode(data, "/items/7")
    assert type(raised.value) is kind
    assert raised.value.pointer == "/items/7"


def test_an_image_with_too_many_pixels_is_refused_before_decoding() -> None:
    message = rf"at most {MAX_PIXELS} pixels \(max_image_pixels\), got 60000 x 60000"
    with pytest.raises(InputTooLargeError, match=message):
        decode(png_with_header(60_000), "/items/0")


def test_a_higher_pixel_limit_replaces_that_of_pillow() -> None:
    # Pillow refuses half as many by default; this one fails only at the missing data.
    with pytest.raises(InvalidInputError, match="truncated or corrupt"):
        decode(png_with_header(14_000), "/items/0", 14_000**2)
    with pytest.raises(InputTooLargeError, match="195999999 pixels"):
        decode(png_with_header(14_000), "/items/0", 14_000**2 - 1)


def png_with_header(side: int) -> bytes:
    """A PNG file of 8 by 8 pixels whose header declares a larger side."""
    header = file(Image.new("1", (8, 8)))
    size = side.to_bytes(4, "big")
    chunk = b"IHDR" + size + size + header[24:29]
    return header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]
