"""Image encoders against plain timm, and weights that are refused."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch

from stitchwork.errors import (
    InvalidInputError,
    JobFailedError,
    UnsupportedFormatError,
)
from stitchwork.models.batching import Batcher
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.models.packaged_encoders import write_efficientnet_lite
from stitchwork.resources import ImageEncoder
from tests.support.images import file, picture

NAME = "tf_efficientnet_lite0"


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
    head = encoders.classifier(spec).head.define({})
    scores = torch.from_numpy(head.classifier.logits(rows.numpy()))
    torch.testing.assert_close(scores, logits, rtol=1e-3, atol=1e-3)
    assert len(set(head.labels)) == 1000


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
        head = encoders.classifier(own).head
        assert (head.layers[0].outputs, head.labels) == (7, tuple("0123456"))
    else:
        with pytest.raises(InvalidInputError, match="has no classifier"):
            encoders.classifier(own)


@pytest.mark.models
def test_weights_that_do_not_fit_or_are_not_allowed_are_refused(
    encoders: EncoderCache, weights: Path, tmp_path: Path
) -> None:
    pickled = weights.parent / "weights.pth"
    torch.save({"a": torch.ones(1)}, pickled)
    with pytest.raises(UnsupportedFormatError, match="pickles are not supported"):
        encoders.get(ImageEncoder(model=NAME, weights=str(pickled)))
    with pytest.raises(
        InvalidInputError, match=r"do not fit .*lite1: \d+ missing \(blocks\.1\.2\."
    ):
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
