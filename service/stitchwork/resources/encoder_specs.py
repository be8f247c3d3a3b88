"""Frozen records of the encoders: which model embeds inputs, and how."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BeforeValidator, Field, Strict

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.resources.record import Record

Modality: TypeAlias = Literal["text", "image", "vector"]

TokenPooling: TypeAlias = Literal["mean", "cls", "last", "max", "mean_sqrt_len", "weightedmean"]
PoolingMode: TypeAlias = Literal[TokenPooling, "projection"]
VisionPooling: TypeAlias = Literal[TokenPooling, "projection", "pooler", "classifier"]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]
"""A data type that models are computed in."""


def _refuse_int8(value: Any) -> Any:
    if value == "int8":
        raise ValueError(
            "expected auto, float32, bfloat16 or float16, got int8, which is not offered: models "
            "calibrated for it may take half the time of bfloat16, but of MiniLM's rows 7% get "
            "another nearest text, 2% in bfloat16"
        )
    return value


DtypeChoice: TypeAlias = Annotated[Literal["auto", Dtype], BeforeValidator(_refuse_int8)]
DTYPE_DESCRIPTION: Final = (
    "Data type that the model is computed in; embeddings are always float32. `auto` chooses "
    "`bfloat16` if the worker that embeds the anchors computes it faster and the embeddings hardly "
    "differ, else `float32`; the record shows the choice. Workers that do not support the data "
    "type leave the inputs to those that do."
)
Width: TypeAlias = Annotated[int, Strict(), Field(ge=1, le=1_000_000)]


class TransformersSpec(Record):
    """The fields that encoders of texts and of images by transformers have in common."""

    kind: str
    model: str = Field(
        min_length=1,
        max_length=1024,
        description="Hub id, or path of a local folder, which begins with `/` or `./`; a relative "
        "one starts at the worker's working directory.",
    )
    revision: str | None = Field(None, max_length=256, description="Hub commit, tag or branch.")
    dtype: DtypeChoice = Field("float32", description=DTYPE_DESCRIPTION)
    normalize: Annotated[bool, Strict()] | None = Field(
        None,
        description="Scale embeddings to unit length; unset: as the model's files say, else no.",
    )
    modules: tuple[str, ...] | None = Field(
        None,
        description="Modules between the pooling and the embedding. Unset: those of the model's "
        "files; empty: none of them.",
    )
    dimensions: Width | None = Field(
        None,
        description="Number of dimensions that embeddings are cut to, for models that are made for "
        "it (Matryoshka); unset: as the model's files say, else all.",
    )
    matryoshka: Annotated[bool, Strict()] | tuple[Width, ...] | None = Field(
        None,
        description="Whether embeddings may be cut, or the numbers of dimensions that they may be "
        "cut to; unset: as the model's files say, else no.",
    )

    def check_dimensions(self, dimensions: int) -> None:
        """Refuse a number of dimensions that embeddings of the model may not be cut to.

        Raises:
            InvalidInputError: If the model is not made for it, as far as the declaration says.
        """
        if isinstance(self.matryoshka, tuple):
            if dimensions not in self.matryoshka:
                raise InvalidInputError(
                    f"dimensions: expected one of {', '.join(map(str, self.matryoshka))}, which "
                    f"{self.model} is made for, got {dimensions}",
                    pointer="/dimensions",
                )
        elif not self.matryoshka:
            raise InvalidInputError(
                f"dimensions: nothing says that embeddings of {self.model} may be cut to "
                f"{dimensions} dimensions; register its encoder with matryoshka true if they may",
                pointer="/dimensions",
            )


class TextEncoder(TransformersSpec):
    """A transformers model that embeds texts, or the text tower of one for texts and images."""

    kind: Literal["transformers"] = "transformers"
    pooling: PoolingMode | tuple[TokenPooling, ...] | None = Field(
        None,
        description="How tokens become one row, or several modes whose rows are concatenated; "
        "`projection` is the embedding of a text tower such as CLIP's. Unset: as the model's files "
        "say, else `mean`.",
    )
    layer: Annotated[int, Strict()] = Field(
        -1, description="Hidden layer to pool; -1 is the last, 0 the embeddings."
    )
    max_length: Annotated[int, Strict()] | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Maximum number of tokens; unset: the model's own.",
    )
    prompt: str | None = Field(
        None,
        max_length=10_000,
        description="Text before each text; unset: that of `prompt_name`, else the model's "
        "default prompt.",
    )
    prompt_name: str | None = Field(
        None, max_length=256, description="Name of a prompt of `prompts` or of the model's files."
    )
    prompts: dict[str, str] | None = Field(
        None,
        max_length=100,
        description="Prompts by name, which `input_type` of a request selects. They add to those "
        "of the model's files, and replace those of the same name.",
    )
    lower_case: Annotated[bool, Strict()] | None = Field(
        None, description="Convert texts to lower case; unset: as the model's files say, else no."
    )
    truncate: Annotated[bool, Strict()] = Field(
        False, description="Cut longer texts instead of refusing them."
    )

    @property
    def modality(self) -> Modality:
        """The modality of its inputs."""
        return "text"

    @property
    def is_resolved(self) -> bool:
        """Whether it leaves nothing for the model's files to decide."""
        values = (self.pooling, self.normalize, self.lower_case, self.prompt, self.modules)
        return None not in (*values, self.max_length, self.prompts, self.matryoshka)


Channels: TypeAlias = Annotated[tuple[float, ...], Field(min_length=1, max_length=3)]
Scales: TypeAlias = Annotated[
    tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1, max_length=3)
]


class ImageEncoder(Record):
    """A timm model that embeds images by its pooled features."""

    kind: Literal["timm"] = "timm"
    model: str = Field(
        min_length=1,
        max_length=256,
        description="Name of the model in timm, or `hf-hub:` and the id of a model of timm on the "
        "hub, whose config.json names the architecture.",
    )
    weights: str | None = Field(
        None,
        max_length=1024,
        description="Path of a local safetensors file, or of the folder of it and of timm's "
        "config.json; a relative one starts at the worker's working directory. Unset: timm's own "
        "from the hub.",
    )
    revision: str | None = Field(None, max_length=256, description="Hub commit, tag or branch.")
    dtype: DtypeChoice = Field("float32", description=DTYPE_DESCRIPTION)
    input_size: Annotated[int, Strict()] | None = Field(
        None, ge=16, le=2048, description="Side of the input in pixels; unset: the model's own."
    )
    mean: Channels | None = Field(
        None, description="Mean of each channel, of values from 0 to 1; unset: the model's own."
    )
    std: Scales | None = Field(
        None, description="Standard deviation of each channel; unset: the model's own."
    )
    crop_pct: float | None = Field(
        None,
        gt=0,
        le=2,
        description="Side of the centre crop as a share of the resized image; unset: the model's.",
    )
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None = (
        Field(None, description="How images are resized; unset: the model's own.")
    )
    in_chans: Literal[1, 3] | None = Field(
        None, description="Channels: 1 for grey, 3 for RGB; unset: the model's own."
    )
    normalize: Annotated[bool, Strict()] = Field(
        False, description="Scale embeddings to unit length."
    )

    @property
    def modality(self) -> Modality:
        """The modality of its inputs."""
        return "image"


class VisionEncoder(TransformersSpec):
    """A transformers model that embeds images, or the image tower of one for texts and images."""

    kind: Literal["transformers-vision"] = "transformers-vision"
    pooling: VisionPooling | tuple[TokenPooling, ...] | None = Field(
        None,
        description="How an image becomes one row: `projection` is the embedding of an image tower "
        "such as CLIP's, `pooler` the model's pooler output, `classifier` the input of its "
        "classifier; the others pool the last hidden states, as for texts. Unset: as the model's "
        "files say, else the first of these that the model has, else `cls` or `mean`.",
    )
    input_size: Annotated[int, Strict()] | None = Field(
        None,
        ge=16,
        le=2048,
        description="Side of the input in pixels; unset: that of the model's image processor.",
    )
    mean: Channels | None = Field(
        None, description="Mean of each channel, of values from 0 to 1; unset: the model's own."
    )
    std: Scales | None = Field(
        None, description="Standard deviation of each channel; unset: the model's own."
    )

    @property
    def modality(self) -> Modality:
        """The modality of its inputs."""
        return "image"

    @property
    def is_resolved(self) -> bool:
        """Whether it leaves nothing for the model's files to decide."""
        values = (self.pooling, self.normalize, self.modules, self.matryoshka)
        return None not in (*values, self.mean, self.std)


EncoderSpec: TypeAlias = Annotated[
    TextEncoder | ImageEncoder | VisionEncoder, Field(discriminator="kind")
]


def is_local_path(model: str) -> bool:
    """Whether a text model's name has the form of a path, and not of an id of the hub."""
    is_path = model.startswith(("/", ".", "~")) or "\\" in model or ".." in model
    return is_path or model.count("/") > 1


HUB_PREFIX: Final = "hf-hub:"
"""What timm puts before the id of a model on the hub."""


def timm_hub_address(spec: EncoderSpec) -> str | None:
    """The id of a model on the hub, if it has the place of the name of a timm model."""
    if not isinstance(spec, ImageEncoder) or not spec.model.startswith(HUB_PREFIX):
        return None
    return spec.model.removeprefix(HUB_PREFIX)


TIMM_OWNERS: Final = (
    *("timm", "apple", "belfner", "jienengchen", "microsoft", "munehiro-k", "naver-ai"),
)
"""Owners of the hub's models that timm loads weights from."""


def check_timm_model(encoder: ImageEncoder, patterns: Sequence[str], pointer: str) -> None:
    """Refuse a timm model whose weights no worker would load from a hub.

    Only timm knows which model of the hub has its weights. Without it, a model is refused if no
    pattern allows any model of an owner that timm loads from.

    Raises:
        InvalidInputError: If `model` is the address of a model elsewhere than on the hub, or
            `hub_models` allows none that timm could load, or there are both an address and weights.
    """
    name = encoder.model
    hub_id = timm_hub_address(encoder)
    if hub_id is not None:
        if encoder.weights is not None:
            raise InvalidInputError(
                f"expected no weights with {name}, whose weights are on the hub", pointer=pointer
            )
        check_hub_model(hub_id, patterns, pointer)
        return
    if ":" in name or "/" in name:
        raise InvalidInputError(
            f"expected the name of a model in timm, such as resnet18.a1_in1k, or {HUB_PREFIX} and "
            f"the id of one on the hub, got {name}; other weights come from a local file that "
            "`weights` names",
            pointer=pointer,
        )
    owners = [pattern.partition("/")[0] for pattern in patterns]
    allowed = any(fnmatchcase(known, owner) for owner in owners for known in TIMM_OWNERS)
    if encoder.weights is None and not allowed:
        check_hub_model(f"timm/{name}", patterns, pointer)


def local_path(spec: EncoderSpec) -> str | None:
    """The local path that a spec names; None if it names a model of the hub."""
    if isinstance(spec, ImageEncoder):
        return spec.weights
    return spec.model if is_local_path(spec.model) else None


def check_hub_model(model: str, patterns: Sequence[str], pointer: str | None = None) -> None:
    """Refuse a model of the hub that no pattern of `hub_models` allows.

    Raises:
        InvalidInputError: If it is not allowed.
    """
    if not any(fnmatchcase(model, pattern) for pattern in patterns):
        raise InvalidInputError(
            f"hub model {model} is not allowed; hub_models allows: "
            f"{', '.join(patterns) or 'none'}. A local folder is named by a path that starts "
            "with / or ./",
            pointer=pointer,
            code=ErrorCode.MODEL_NOT_ALLOWED,
        )
