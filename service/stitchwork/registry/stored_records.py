"""Records as the registry stores them: JSON that begins with the version of its format."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

import orjson
from pydantic import ValidationError

from stitchwork import __version__
from stitchwork.errors import IncompatibleFormatError
from stitchwork.resources import Record

T = TypeVar("T", bound=Record)

FORMAT: Final = 7
"""The format of the records that are written. All formats up to it are read.

It changes if a release before could not read a record, and `_upgrade` then reads the format before.
"""
FIRST_FORMAT: Final = 1
"""The format of release 0.1.0, whose records do not name it."""

MODULES_FORMAT: Final = 3
"""The first format in which text encoders have a prompt and modules."""
MATRYOSHKA_FORMAT: Final = 4
"""The first format in which text encoders may cut their embeddings."""
LAYERS_FORMAT: Final = 5
"""The first format in which heads have a list of layers."""
DTYPE_FORMAT: Final = 7
"""The first format in which encoders have a data type."""
CHECKS_FORMAT: Final = 5
"""The first format in which spaces have checks."""


def dump_record(record: Record) -> bytes:
    """A record as JSON with the version of its format."""
    return b'{"format":%d,%b' % (FORMAT, record.model_dump_json().encode()[1:])


def load_record(model: type[T], data: bytes, name: str) -> T:
    """The record that `dump_record`, of this release or an earlier one, wrote.

    Args:
        model: The record's class.
        data: The stored bytes.
        name: What it is, such as `space x`, for the error.

    Raises:
        IncompatibleFormatError: If a later release wrote it, or it is not such a record.
    """
    try:
        fields = orjson.loads(data)
        number = int(fields.pop("format", FIRST_FORMAT))
        if number <= FORMAT:
            return model.model_validate(_upgrade(fields, number))
    except (ValidationError, ValueError, TypeError, AttributeError) as error:
        raise IncompatibleFormatError(
            f"the stored record of {name} cannot be read by release {__version__}: restore the "
            "registry from a backup, or run the release that wrote it"
        ) from error
    raise IncompatibleFormatError(
        f"the stored record of {name} has format {number} of a later release, release "
        f"{__version__} reads formats up to {FORMAT}: run the later release"
    )


def _upgrade(fields: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """The fields of a record as the current format has them.

    Format 1 differs from format 2 by not naming its format. Before format 3, text encoders ignored
    the prompts and modules of their model's files, and their rows must stay comparable. Before
    format 4, no encoder cut its embeddings, and versions were digests of declarations alone, as
    those of records without files are. Before format 5, heads had the widths between their linear
    layers, and activations apart, and spaces were not checked: none of their checks is due.
    Before format 6, spaces had no names of classes, which stay unknown. Before format 7, encoders
    had no data type, and that of a space was what its anchors were computed in: the encoders are
    computed in float32 from then on.
    """
    if number < DTYPE_FORMAT and "condition_number" in fields:
        fields = {**fields, "dtype": None}
    if number < CHECKS_FORMAT and "condition_number" in fields:
        fields = {**fields, "checks": []}
    encoder = fields.get("encoder")
    if number < MATRYOSHKA_FORMAT and encoder and encoder.get("kind") == "transformers":
        ignored: dict[str, Any] = {"matryoshka": False}
        if number < MODULES_FORMAT:
            ignored |= {"prompt": "", "lower_case": False, "modules": []}
        fields = {**fields, "encoder": {**ignored, **encoder}}
    if number < LAYERS_FORMAT and "layers" in fields:
        layers = _layers(fields["layers"], fields.get("activation"))
        fields = {name: value for name, value in fields.items() if name != "activation"}
        fields["layers"] = layers
    return fields


def _layers(widths: Sequence[int], activation: str | Sequence[str] | None) -> list[dict[str, Any]]:
    """The layers of a head of an earlier format, from its widths and its activations."""
    count = len(widths) - 2
    one = activation if isinstance(activation, str) else "identity"
    names = list(activation) if activation and not isinstance(activation, str) else [one] * count
    layers: list[dict[str, Any]] = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [{"kind": names[i - 1]}] if i else []
        layers.append({"kind": "linear", "inputs": inputs, "outputs": outputs})
    return layers
