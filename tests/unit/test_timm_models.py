"""Names of timm models are checked as far as that is possible without timm."""

import pytest
import timm

from stitchwork.errors import InvalidInputError
from stitchwork.resources import ImageEncoder, check_timm_model
from stitchwork.resources.encoder_specs import TIMM_OWNERS

NAME = "resnet18.a1_in1k"


def check(model: str, *patterns: str, weights: str | None = None) -> None:
    check_timm_model(ImageEncoder(model=model, weights=weights), patterns, "/encoder/model")


def test_owners_are_those_that_timm_loads_from() -> None:
    configs = [timm.get_pretrained_cfg(name) for name in timm.list_pretrained()]
    ids = [config.hf_hub_id for config in configs if config and config.hf_hub_id]
    assert {str(id_).partition("/")[0] for id_ in ids} == set(TIMM_OWNERS)


@pytest.mark.parametrize("pattern", ["timm/*", "*", "*/resnet*", "apple/mobileclip*"])
def test_pattern_of_an_owner_leaves_the_decision_to_workers(pattern: str) -> None:
    check(NAME, "maker/*", pattern)


@pytest.mark.parametrize("patterns", [(), ("maker/*", "sentence-transformers/*")])
def test_model_that_no_pattern_can_allow_is_refused(patterns: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError, match="hub_models allows") as error:
        check(NAME, *patterns)
    assert error.value.code == "model-not-allowed"
    check(NAME, *patterns, weights="/models/resnet18.safetensors")


def test_address_on_the_hub_is_allowed_as_its_model_is_and_has_no_weights_beside_it() -> None:
    check("hf-hub:maker/model", "maker/*")
    with pytest.raises(InvalidInputError, match="hub model maker/model is not allowed"):
        check("hf-hub:maker/model", "timm/*")
    with pytest.raises(InvalidInputError, match="expected no weights with hf-hub:maker/model"):
        check("hf-hub:maker/model", "maker/*", weights="/models/resnet18.safetensors")


@pytest.mark.parametrize("model", ["hub:timm/x", f"timm/{NAME}", "local-dir:/models"])
def test_address_in_place_of_a_name_is_refused(model: str) -> None:
    for weights in (None, "/models/resnet18.safetensors"):
        with pytest.raises(InvalidInputError, match="expected the name of a model in timm"):
            check(model, "*", weights=weights)
