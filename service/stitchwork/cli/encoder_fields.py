"""The encoder that the options of `stitchwork spaces put` name."""

import json
from typing import Any

from stitchwork.errors import InvalidInputError


def encoder_fields(
    text_model: str | None,
    image_model: str | None,
    weights: str | None,
    input_size: int | None,
    dtype: str | None,
    encoder: str | None,
) -> dict[str, Any] | None:
    """The fields of the encoder that the options of a command name; None if they name none.

    Raises:
        InvalidInputError: If they name more than one, or `--encoder` is not JSON.
    """
    if sum(option is not None for option in (text_model, image_model, encoder)) > 1:
        raise InvalidInputError("expected one of --text-model, --image-model and --encoder")
    if encoder:
        try:
            fields: dict[str, Any] = json.loads(encoder)
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"--encoder: expected JSON: {error}") from error
        return fields if dtype is None else {**fields, "dtype": dtype}
    if text_model:
        return _named(kind="transformers", model=text_model, dtype=dtype)
    if image_model:
        return _named(
            kind="timm", model=image_model, weights=weights, input_size=input_size, dtype=dtype
        )
    return None


def _named(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
