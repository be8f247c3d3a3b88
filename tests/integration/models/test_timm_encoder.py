"""Image encoders against plain timm, and every kind of image file."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from stitchwork.errors import (
    InputTooLargeError,
    InvalidInputError,
    JobFailedError,
    UnsupportedFormatError,
)
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder import MAX_PIXELS
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import write_efficientnet_lite
from stitchwork.models.timm_encoder import decode
from stitchwork.resources import ImageEncoder

NAME = "tf_efficientnet_lite0"


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_efficientnet_lite(NAME, tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def encoders(weights: Path) -> EncoderCache:
    return EncoderCache("cpu", [weights.parent], offline=True)


@pytest.mark.models
def test_embeddings_and_classifier_equal_those_of_plain_timm(
    encoders: EncoderCache, weights: Path
) -> None:
    spec = ImageEncoder(model=NAME, weights=str(weights), input_size=96)
    encoder = encoders.get(spec).encoder
    images = [picture(64, 48), picture(96, 96), picture(50, 120)]
    rows = Batcher(encoder).embed(encoder.prepare([file(image) for image in images]), 2)
    plain = timm.create_model(NAME, pretrained=False).eval()
    plain.load_state_dict(load_file(weights))
    config = timm.data.resolve_data_config({"input_size": (3, 96, 96)}, model=plain)
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.inference_mode():
        pixels = torch.stack([transform(image) for image in images])
        features = plain.forward_head(plain.forward_features(pixels), pre_logits=True)
        logits = plain(pixels)
    torch.testing.assert_close(rows, features, rtol=1e-3, atol=1e-4)
    classifier, labels = encoders.classifier(spec)
    scores = torch.from_numpy(classifier.logits(rows.numpy()))
    torch.testing.assert_close(scores, logits, rtol=1e-3, atol=1e-3)
    assert len(set(labels)) == 1000


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


@pytest.mark.models
@pytest.mark.parametrize("classes", [7, 0])
def test_a_finetuned_model_has_the_classes_of_its_weights(
    encoders: EncoderCache, weights: Path, classes: int
) -> None:
    state = load_file(weights)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][:classes].clone()
        if not classes:
            del state[name]
    path = weights.with_name(f"own{classes}.safetensors")
    save_torch(state, path)
    own = ImageEncoder(model=NAME, weights=str(path), input_size=96)
    plain = own.model_copy(update={"weights": str(weights)})
    images = [file(picture(64, 48))]
    finetuned, original = (encoders.get(spec).encoder for spec in (own, plain))
    torch.testing.assert_close(
        finetuned.forward(finetuned.prepare(images).inputs),
        original.forward(original.prepare(images).inputs),
    )
    if classes:
        classifier, labels = encoders.classifier(own)
        assert (classifier.layers[0][0].shape[0], labels) == (7, list("0123456"))
    else:
        with pytest.raises(InvalidInputError, match="not one linear layer"):
            encoders.classifier(own)


@pytest.mark.models
def test_weights_that_do_not_fit_or_are_not_allowed_are_refused(
    encoders: EncoderCache, weights: Path, tmp_path: Path
) -> None:
    pickled = weights.parent / "weights.pth"
    torch.save({"a": torch.ones(1)}, pickled)
    with pytest.raises(UnsupportedFormatError, match="pickles are not supported"):
        encoders.get(ImageEncoder(model=NAME, weights=str(pickled)))
    with pytest.raises(InvalidInputError, match=r"do not fit .*lite1: blocks\.1\.2\..* is missing"):
        encoders.get(ImageEncoder(model="tf_efficientnet_lite1", weights=str(weights)))
    state = {**load_file(weights), "classifier.weight": torch.ones(7, 3)}
    save_torch(state, weights.with_name("narrow.safetensors"))
    message = r"classifier\.weight of shape \(1000, 1280\), got \(7, 3\)"
    with pytest.raises(InvalidInputError, match=message):
        encoders.get(ImageEncoder(model=NAME, weights=str(weights.with_name("narrow.safetensors"))))
    with pytest.raises(InvalidInputError, match=r"none\.safetensors of .* does not exist"):
        encoders.get(ImageEncoder(model=NAME, weights=str(weights.parent / "none.safetensors")))
    with pytest.raises(InvalidInputError, match="model_roots"):
        encoders.get(ImageEncoder(model=NAME, weights=str(tmp_path / "x.safetensors")))
    with pytest.raises(InvalidInputError, match="no model"):
        encoders.get(ImageEncoder(model="no_such_model", weights=str(weights)))
    with pytest.raises(InvalidInputError, match=r"timm/resnet18\.a1_in1k is not allowed"):
        encoders.get(ImageEncoder(model="resnet18"))
    allowing = EncoderCache("cpu", [], offline=True, hub_models=("timm/*",))
    with pytest.raises(
        JobFailedError, match=r"resnet18\.a1_in1k cannot be loaded: this worker is off"
    ):
        allowing.get(ImageEncoder(model="resnet18"))
