"""Models of the Open Inference Protocol: an operation of this service on registered resources.

    embed:space                 raw inputs → embeddings
    embed:space:target          raw inputs → embeddings in another space
    stitch:space:head           raw inputs → predictions
    translate:source:target     embeddings → embeddings in another space
    classify:head               embeddings of the head's own space → predictions
    classify:space:head         embeddings of another space → predictions

Ids contain no colon, so each name is parsed in one way, and URL paths need no escaping.
"""

from dataclasses import dataclass
from typing import Final, Literal

from stitchwork.api.kserve.schemas import Datatype, ModelMetadata, TensorMetadata
from stitchwork.errors import UnknownResourceError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.geometry.classifier import MULTI_LABEL, REGRESSION, SINGLE_LABEL, ProblemType
from stitchwork.ids import check_id
from stitchwork.inference.pipeline import Pipeline
from stitchwork.inference.resolve import Resolution
from stitchwork.resources import digest

Operation = Literal["embed", "stitch", "translate", "classify"]

FORMS: Final[dict[tuple[str, int], str]] = {
    ("embed", 1): "embed:space",
    ("embed", 2): "embed:space:target",
    ("stitch", 2): "stitch:space:head",
    ("translate", 2): "translate:source:target",
    ("classify", 1): "classify:head",
    ("classify", 2): "classify:space:head",
}
PLATFORM: Final = "stitchwork"
EXTENSIONS: Final = ("binary_tensor_data",)
"""Extensions of the protocol that the REST API supports."""
ROWS: Final = "embeddings"
ITEMS: Final = "items"
OutputTensor = tuple[str, Datatype, tuple[int, ...]]
"""Name, datatype and shape of an output."""
PREDICTIONS: Final[dict[ProblemType, tuple[OutputTensor, ...]]] = {
    SINGLE_LABEL: (
        ("labels", "BYTES", (-1, -1)),
        ("scores", "FP32", (-1, -1)),
        ("confidence", "FP32", (-1,)),
    ),
    MULTI_LABEL: (
        ("labels", "BYTES", (-1, -1)),
        ("scores", "FP32", (-1, -1)),
        ("predicted", "BOOL", (-1, -1)),
        ("confidence", "FP32", (-1,)),
    ),
    REGRESSION: (("labels", "BYTES", (-1, -1)), ("values", "FP32", (-1, -1))),
}
"""The outputs of a head; integers and booleans among the labels are their JSON text."""


@dataclass(frozen=True, slots=True)
class ModelName:
    """A model's name, parsed.

    Attributes:
        text: The name.
        operation: What the model does.
        ids: Ids of the resources that it uses.
    """

    text: str
    operation: Operation
    ids: tuple[str, ...]

    @property
    def takes_items(self) -> bool:
        """Whether it takes raw inputs, which a worker embeds, instead of embeddings."""
        return self.operation in ("embed", "stitch")

    @property
    def roles(self) -> dict[str, str]:
        """The ids by their role in a resolution."""
        match self.operation, self.ids:
            case "embed", (source,):
                return {"source": source}
            case "classify", (head,):
                return {"head": head}
            case (("stitch" | "classify"), (source, head)):
                return {"source": source, "head": head}
            case _, (source, target):
                return {"source": source, "target": target}
        raise UnknownResourceError(f"no model {self.text[:80]!r}")


@dataclass(frozen=True, slots=True)
class Model:
    """A model at the current versions of its resources.

    Attributes:
        name: Its name.
        resolution: The records that it uses.
    """

    name: ModelName
    resolution: Resolution

    @property
    def version(self) -> str:
        """A digest of the versions of all its records."""
        records = self.resolution.records
        return digest({role: record.version for role, record in records.items()})

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""
        head = self.resolution.head
        return tuple(name for name, _, _ in PREDICTIONS[head.problem_type]) if head else (ROWS,)

    @property
    def identity(self) -> dict[str, str]:
        """The fields of a response that identify it."""
        return {"model_name": self.name.text, "model_version": self.version}

    @property
    def metadata(self) -> ModelMetadata:
        """Its metadata as the protocol defines them."""
        resolution = self.resolution
        if self.name.takes_items:
            tensor = _tensor(ITEMS, "BYTES", -1)
        else:
            tensor = _tensor(ROWS, "FP32", -1, resolution.source.dim)
        outputs = [_tensor(ROWS, "FP32", -1, resolution.destination.dim)]
        if resolution.head:
            outputs = [
                _tensor(name, datatype, *shape)
                for name, datatype, shape in PREDICTIONS[resolution.head.problem_type]
            ]
        return ModelMetadata(
            name=self.name.text,
            versions=[self.version],
            platform=PLATFORM,
            inputs=[tensor],
            outputs=outputs,
        )


def parse_name(text: str) -> ModelName:
    """Parse a model's name.

    Raises:
        UnknownResourceError: If it has none of the forms.
        InvalidInputError: If one of its ids is not a valid id.
    """
    operation, *ids = text.split(":")
    if (operation, len(ids)) not in FORMS:
        raise UnknownResourceError(
            f"no model {text[:80]!r}: expected a name of the form {', '.join(FORMS.values())}"
        )
    return ModelName(text, operation, tuple(check_id(id_) for id_ in ids))  # type: ignore[arg-type]


def find_model(
    pipeline: Pipeline,
    name: ModelName,
    version: str | None = None,
    bridge: BridgeName = DEFAULT_BRIDGE,
) -> Model:
    """Find the model of a name; blocks for one round trip to the registry.

    Args:
        pipeline: Resolves ids.
        name: The name.
        version: The version that must be current; None accepts any.
        bridge: The bridge between its spaces.

    Raises:
        UnknownResourceError: If a resource in the name is not registered, if the model takes raw
            inputs and its space has no encoder, or if another version is current.
        NotReadyError: If a resource in the name is pending.
        AnchorSetMismatchError: If its spaces do not share an anchor set.
    """
    return check_model(name, pipeline.resolve(**name.roles, bridge=bridge), version)


def check_model(name: ModelName, resolution: Resolution, version: str | None = None) -> Model:
    """The model of a name at these versions.

    Args:
        name: The name.
        resolution: The versions of the resources in the name.
        version: The version that must be current; None accepts any.

    Raises:
        UnknownResourceError: If the model takes raw inputs and its space has no encoder, or if
            another version is current.
    """
    if name.takes_items and resolution.source.encoder is None:
        raise UnknownResourceError(
            f"no model {name.text}: space {resolution.source.id} has no encoder"
        )
    model = Model(name, resolution)
    if version not in (None, model.version):
        raise UnknownResourceError(
            f"the current version of model {name.text} is {model.version}, got {version[:80]!r}"
        )
    return model


def _tensor(name: str, datatype: Datatype, *shape: int) -> TensorMetadata:
    return TensorMetadata(name=name, datatype=datatype, shape=list(shape))
