"""Decoding of image files: formats, modes, orientation and limits."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from stitchwork.errors import InputTooLargeError, InvalidInputError, UnsupportedFormatError
from stitchwork.models.encoder import MAX_PIXELS
from stitchwork.models.image_files import MAX_SCANS, count_scans, decode
from stitchwork.models.iso_boxes import iter_boxes, read_tracks
from stitchwork.models.video_headers import UnitBudget, av1_size
from tests.support.images import file, picture, png_with_header


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
        file(picture(), "GIF", save_all=True, append_images=[picture(mode="L")]),
        file(picture(), "BMP"),
        file(picture(), "TIFF", compression="tiff_lzw"),
        file(picture(mode="CMYK"), "TIFF"),
        file(picture(), "AVIF"),
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
        (file(picture(), "PPM"), UnsupportedFormatError),
        (file(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF"), UnsupportedFormatError),
        (file(picture(), "GIF")[:1200], InvalidInputError),
        (file(picture(), "TIFF")[:2000], InvalidInputError),
        (file(picture(), "BMP")[:2000], InvalidInputError),
        (file(picture(), "AVIF")[:300], UnsupportedFormatError),
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


@pytest.mark.parametrize(
    ("kind", "tolerance"), [("GIF", 60), ("BMP", 0), ("TIFF", 0), ("AVIF", 40)]
)
def test_the_first_frame_of_a_file_is_decoded(kind: str, tolerance: int) -> None:
    first, second = Image.new("RGB", (32, 32), (200, 30, 90)), Image.new("RGB", (32, 32))
    more = {} if kind == "BMP" else {"save_all": True, "append_images": [second]}
    pixels = np.asarray(decode(file(first, kind, **more), "/items/0"), np.int16)
    assert np.abs(pixels - np.asarray(first)).max() <= tolerance


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "TIFF", "PNG"])
def test_later_frames_and_pages_are_not_decoded(kind: str) -> None:
    first = Image.new("RGB", (32, 32), (200, 30, 90))
    others = [Image.new("RGB", (32, 32), (0, 0, i)) for i in range(40)]
    if kind == "TIFF":
        others = [Image.new("RGB", (5_000, 5_000))]
    data = file(first, kind, save_all=True, append_images=others)
    # The limit is that of one frame: more than one would not fit.
    image = decode(data, "/items/0", 32 * 32)
    assert np.abs(np.asarray(image, np.int16) - np.asarray(first)).max() <= 60


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "AVIF", "HEIF", "PNG", "WEBP"])
def test_small_file_of_many_pixels_is_refused_in_every_format(kind: str) -> None:
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = file(Image.new("RGB", (1_500, 1_500)), kind)
    with pytest.raises(InputTooLargeError, match="got 1500 x 1500") as raised:
        decode(data, "/items/0", 1_500**2 - 1)
    assert raised.value.code == "too-many-pixels"
    assert decode(data, "/items/0", 1_500**2).size == (1_500, 1_500)


def test_heic_files_are_decoded() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.new("RGB", (64, 48), (200, 30, 90))
    pixels = np.asarray(decode(file(image, "HEIF"), "/items/0"), np.int16)
    assert np.abs(pixels - np.asarray(image)).max() <= 8


def test_what_follows_the_end_of_a_jpeg_is_not_counted() -> None:
    photo = file(picture(), "JPEG", progressive=True)
    assert 1 < count_scans(photo) < MAX_SCANS
    video = b"ftypmp42" + b"\xff\xda" * (MAX_SCANS + 1)
    assert count_scans(photo + video) == count_scans(photo)
    assert decode(photo + video, "/items/0").size == picture().size


def test_scans_after_a_thumbnail_are_counted() -> None:
    """The end of a thumbnail within the metadata is not that of the image."""
    photo = file(picture(), "JPEG", progressive=True)
    thumbnail = file(picture(8, 8), "JPEG")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    last = photo.rfind(b"\xff\xda")
    many = photo[:2] + segment + photo[2:last] + photo[last:-2] * (MAX_SCANS + 1) + photo[-2:]
    assert count_scans(photo[:2] + segment + photo[2:]) == count_scans(photo)
    with pytest.raises(InputTooLargeError, match="scans"):
        decode(many, "/items/0")


def test_the_tile_of_a_tiff_file_is_bounded_like_an_image() -> None:
    # Written under private numbers, since Pillow writes no tiles.
    data = file(Image.new("RGB", (8, 8)), "TIFF", tiffinfo={65_000: 60_000, 65_001: 60_000})
    for private, tag in ((65_000, 322), (65_001, 323)):
        data = data.replace(private.to_bytes(2, "little"), tag.to_bytes(2, "little"))
    with pytest.raises(InputTooLargeError, match="60000 x 60000"):
        decode(data, "/items/0")


@pytest.mark.parametrize("kind", ["AVIF", "AVIF with a mask", "AVIF sequence", "HEIF", "HEIF grid"])
def test_pixels_are_bounded_as_they_are_coded_whatever_the_container_declares(kind: str) -> None:
    image = Image.new("RGBA" if "mask" in kind else "RGB", (1_000, 600), (200, 30, 90))
    more: dict[str, Any] = {}
    if kind == "AVIF sequence":
        more = {"save_all": True, "append_images": [Image.new("RGB", image.size)]}
    if kind.startswith("HEIF"):
        heif = pytest.importorskip("pillow_heif")
        heif.register_heif_opener()
        heif.options.GRID_TILE_SIZE = 512 if kind == "HEIF grid" else 0
    data = declare_size(file(image, kind.split()[0], **more), image.size, (100, 60))
    with pytest.raises(InputTooLargeError, match="of a file that declares 100 x 60") as raised:
        decode(data, "/items/0", 1_000 * 600 - 1)
    assert raised.value.code == "too-many-pixels"
    if kind == "AVIF":
        # The decoder scales it to the declared size, so that nothing else is wrong with it.
        assert decode(data, "/items/0", 1_000 * 600).size == (100, 60)


def test_frame_of_another_size_than_its_sequence_counts_as_the_largest_possible() -> None:
    frames = {"save_all": True, "append_images": [Image.new("RGB", (100, 60))]}
    data = file(Image.new("RGB", (100, 60), (200, 30, 90)), "AVIF", **frames)
    (movie,) = [box for box in iter_boxes(data) if box.kind == b"moov"]
    sample = read_tracks(data, movie)[0].data
    assert av1_size(sample, UnitBudget()) == (100, 60)
    # The header of the frame follows that of the sequence; its seventh bit overrides the size.
    start = sample.index(b"\x0a")
    frame = start + 2 + sample[start + 1] + 2
    override = sample[:frame] + bytes([sample[frame] | 0b10]) + sample[frame + 1 :]
    assert av1_size(override, UnitBudget()) == (128, 64)


def declare_size(data: bytes, size: tuple[int, int], declared: tuple[int, int]) -> bytes:
    """An AVIF or HEIF file whose container declares another size, in all of its boxes."""
    for unit in (1, 1 << 16):
        before, after = (
            b"".join((n * unit).to_bytes(4) for n in pair) for pair in (size, declared)
        )
        data = data.replace(before, after)
    return data
