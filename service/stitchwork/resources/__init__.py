"""Frozen records of the resources: anchor sets, encoders, spaces, heads, API keys.

Records are plain data. Their arrays (items, anchors, weights) are passed beside them as one
dictionary. A version is a digest of the declaration and, where a worker computes the arrays, of the
model's files and of what computes them: of the libraries' versions for anchors, whose last digits
differ from batch to batch, and of the arrays themselves for heads.
"""

import hashlib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

import numpy as np
import orjson
from numpy.typing import NDArray
from pydantic import Field

from stitchwork.geometry.bridges import DEFAULT_LANDMARKS, DEFAULT_WHITENING, FactorParameters
from stitchwork.ids import ID_PATTERN
from stitchwork.resources.checks import ShiftedRows, SpaceCheck
from stitchwork.resources.encoder_specs import (
    Dtype,
    DtypeChoice,
    EncoderSpec,
    ImageEncoder,
    Modality,
    PoolingMode,
    TextEncoder,
    TokenPooling,
    TransformersSpec,
    VisionEncoder,
    VisionPooling,
    check_hub_model,
    check_timm_model,
    is_local_path,
    local_path,
    timm_hub_address,
)
from stitchwork.resources.heads import (
    ActivationLayer,
    Head,
    HeadLayer,
    Label,
    LeakyReluLayer,
    LinearLayer,
    NormalizeLayer,
    NormLayer,
    label_text,
)
from stitchwork.resources.inputs import (
    LONG_CHARACTERS,
    Arrays,
    Input,
    Item,
    LongText,
    TokenIds,
    item_bytes,
    pack_items,
    unpack_items,
)
from stitchwork.resources.record import DECLARATION, Record

__all__ = [
    "LONG_CHARACTERS",
    "ActivationLayer",
    "AnchorSet",
    "ApiKey",
    "Arrays",
    "BridgeParameters",
    "Dtype",
    "DtypeChoice",
    "DtypePrecision",
    "EncoderSpec",
    "Floats",
    "Head",
    "HeadLayer",
    "ImageEncoder",
    "Input",
    "Item",
    "Label",
    "LeakyReluLayer",
    "LinearLayer",
    "LongText",
    "Modality",
    "NormLayer",
    "NormalizeLayer",
    "PoolingMode",
    "Record",
    "Registration",
    "Scope",
    "ShiftedRows",
    "Space",
    "SpaceCheck",
    "TextEncoder",
    "TokenIds",
    "TokenPooling",
    "TransformersSpec",
    "VisionEncoder",
    "VisionPooling",
    "check_hub_model",
    "check_timm_model",
    "computed_version",
    "digest",
    "encoder_key",
    "is_local_path",
    "item_bytes",
    "label_text",
    "local_path",
    "pack_items",
    "timm_hub_address",
    "unpack_items",
]

Floats: TypeAlias = NDArray[np.float32]


class AnchorSet(Record):
    """The ordered inputs behind the anchors of every space on it."""

    id: str
    version: str
    modality: Modality
    size: int = Field(description="Number of anchors, k.")
    ids: tuple[str, ...] | None = None
    has_items: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def parent(self) -> str | None:
        """The resource that it depends on, as `kind:id`: none."""
        return None


class BridgeParameters(Record):
    """A space's own parameters of the bridges; part of its version."""

    shrinkage: float | None = None
    delta: float = 0.8
    omega: int = 8
    whitening: float = DEFAULT_WHITENING
    landmarks: int = DEFAULT_LANDMARKS

    def checked(self) -> FactorParameters:
        """The same as the parameters of geometry.

        Raises:
            InvalidInputError: If one is out of its range.
        """
        return FactorParameters(**self.model_dump())


class DtypePrecision(Record):
    """Rows of an encoder compared with its rows in float32, on a sample of the anchors."""

    dtype: str = Field(description="The compared data type; `dtype` is the one in use.")
    rows: int = Field(description="Number of anchors that were compared.")
    min_cosine: float = Field(description="Smallest cosine of a row to its row in float32.")
    same_nearest: float = Field(
        description="Share of the anchors with the same nearest other anchor; cosines that differ "
        "by less than 0.001 count as equal."
    )


# Spaces and heads are stored and also travel in a `Job`: a new field, here or in a record that they
# hold, requires raising both `registry.stored_records.FORMAT` and `queue.messages.FORMAT`.
class Space(Record):
    """The output geometry of one encoder on one anchor set."""

    id: str
    version: str
    anchor_set: str
    anchor_set_version: str
    dim: int
    size: int = Field(description="Number of anchors, k.")
    encoder: EncoderSpec | None = None
    files_digest: str | None = Field(
        None,
        description="Digest of the encoder's files: weights, configuration, tokenizer. Null until "
        "a worker has read them.",
    )
    declaration: str | None = Field(None, description=DECLARATION)
    dtype: str | None = Field(
        None,
        description="Data type that the encoder is computed in; null for spaces without one and "
        "for those of earlier releases.",
    )
    precision: DtypePrecision | None = Field(
        None,
        description="Comparison with float32, if the encoder was declared with another data type; "
        "null also where `auto` is float32 because the worker computes nothing else faster.",
    )
    label_names: tuple[str, ...] = Field(
        (),
        description="Names of the classes of the encoder's own classifier, if its files have them.",
    )
    parameters: BridgeParameters = BridgeParameters()
    rank: int
    condition_number: float
    norm_mean: float
    norm_std: float
    unit: bool = Field(
        False, description="Whether translations into the space are scaled to unit length."
    )
    agreement: float | None = Field(
        None, description="Best agreement of its anchors with those of a space on the same set."
    )
    checks: tuple[SpaceCheck, ...] | None = Field(
        None,
        description="Comparisons of its anchors with those of other spaces on the set; null until "
        "they are made, in the background.",
    )
    warnings: tuple[str, ...] = ()

    @property
    def parent(self) -> str | None:
        """The resource that it depends on, as `kind:id`: its anchor set."""
        return f"anchor-set:{self.anchor_set}"


class Registration(Record):
    """A version that a worker prepares; its progress is stored after each step."""

    kind: Literal["space", "head"]
    id: str
    version: str
    encoder: EncoderSpec | None = None
    parent: str = Field(description="The resource that it depends on, as `kind:id`.")
    declared: dict[str, Any] = Field(default_factory=dict)
    status: Literal["pending", "failed"] = "pending"
    done: int = 0
    total: int = 0
    files_digest: str | None = Field(
        None, description="Digest of the files of the encoder that embedded its inputs so far."
    )
    reason: str | None = None


def digest(declared: Any, arrays: Mapping[str, NDArray[Any]] | None = None) -> str:
    """The version of a declaration.

    Args:
        declared: Any JSON value; the order of keys does not matter.
        arrays: Named arrays; names, dtypes, shapes and bytes all count.

    Returns:
        32 hexadecimal digits of SHA-256, equal on every machine for equal declarations.
    """
    state = hashlib.sha256(orjson.dumps(declared, option=orjson.OPT_SORT_KEYS))
    for name in sorted(arrays or {}):
        array = np.ascontiguousarray((arrays or {})[name])
        state.update(f"\0{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        state.update(array.view(np.uint8).data if array.size else b"")
    return state.hexdigest()[:32]


def computed_version(
    declaration: str, files_digest: str | None, computed: Any, arrays: Arrays | None = None
) -> str:
    """The version of what a worker has computed from a declaration.

    Args:
        declaration: Digest of the declaration.
        files_digest: Digest of the files of the model that it names; None if it names none.
        computed: What else the result depends on, or was computed, as JSON.
        arrays: The computed arrays, if these are the same whenever they are computed.
    """
    return digest({"declaration": declaration, "files": files_digest, "computed": computed}, arrays)


def encoder_fields(encoder: EncoderSpec) -> dict[str, Any]:
    """The fields of an encoder that count for a version.

    Without float32, versions are those of releases that knew no other data type.
    """
    return encoder.model_dump(exclude={"dtype"} if encoder.dtype == "float32" else None)


def encoder_key(encoder: EncoderSpec) -> str:
    """The name of an encoder's stream and of its loaded model: the digest of its spec."""
    return digest(encoder.model_dump())


class Scope(StrEnum):
    """The permission of an API key. They are independent, but for `admin`, which includes all."""

    READ = "read"
    INFER = "infer"
    EXPORT = "export"
    ADMIN = "admin"


class ApiKey(Record):
    """The record of one API key; the key itself is stored nowhere."""

    name: str = Field(pattern=ID_PATTERN)
    digest: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the key.")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    created: datetime | None = None
    expires: datetime | None = None
    limit: str | None = Field(None, description="Its own rates, in place of those of the scopes.")
    weight: int = Field(
        1,
        ge=1,
        le=1000,
        description="Its share of each encoder and of the queue, in units of other callers'.",
    )
    max_queue_items: int | None = Field(
        None, ge=1, description="Inputs that it may have in the queue of an encoder at a time."
    )

    def opens(self, scopes: Iterable[Scope]) -> bool:
        """Whether it has one of these scopes."""
        return Scope.ADMIN in self.scopes or not set(self.scopes).isdisjoint(scopes)

    @property
    def expired(self) -> bool:
        """Whether it has expired."""
        return self.expires is not None and self.expires <= datetime.now(UTC)
