"""Response bodies of resources, inference and operation: what routes return is documented."""

from functools import lru_cache
from typing import Any, Literal, Self

from pydantic import Field

from stitchwork.api.schemas.response_model import EmbeddingsModel, NullableEmbeddings, ResponseModel
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, USED_PARAMETERS, BridgeName
from stitchwork.geometry.classifier import REGRESSION
from stitchwork.inference.predictions import (
    HeadPredictions,
    MultiLabelPrediction,
    Prediction,
    RegressionPrediction,
)
from stitchwork.inference.resolve import head_of
from stitchwork.inference.stitch import InferenceResult
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.registry.entries import Outcome
from stitchwork.resources import AnchorSet, Head, Space


class ResourceRef(ResponseModel):
    """A version of a space, a head or an anchor set."""

    id: str
    version: str

    @classmethod
    def of(cls, record: AnchorSet | Space | Head) -> Self:
        """The id and version of a record."""
        ref: Self = _resource_ref(cls, record.id, record.version)
        return ref


@lru_cache(1024)
def _resource_ref(model: type[Any], id_: str, version: str) -> Any:
    # Frozen, so that responses can share one.
    return model(id=id_, version=version)


class Progress(ResponseModel):
    """How much is done: inputs of a registration that are embedded, or results of a report."""

    done: int
    total: int


class RegistrationStatus(ResponseModel):
    """A registration that a worker processes, or that failed."""

    version: str
    status: Literal["pending", "failed"]
    progress: Progress
    reason: str | None = Field(None, description="Why it failed.")


class RegistrationResponse(RegistrationStatus):
    """A space or a head without a ready version."""

    id: str
    outcome: Outcome | None = Field(None, description="What a PUT or POST did.")


class ReadyModel(ResponseModel):
    """A resource with a ready version."""

    status: Literal["ready"]
    pending: RegistrationStatus | None = Field(
        None, description="Registration that is to replace this version."
    )
    outcome: Outcome | None = Field(None, description="What a PUT or POST did.")

    @classmethod
    def derived_fields(cls, record: Any) -> dict[str, Any]:
        """Fields of the response that follow from those of the record."""
        return {}


class BridgeUse(ResponseModel):
    """The parameters of a space that a bridge uses; others have no effect on it."""

    read: dict[str, Any] = Field(description="When it translates from the space.")
    write: dict[str, Any] = Field(description="When it translates into the space.")


class AnchorSetResponse(AnchorSet, ReadyModel):
    """An anchor set."""


class SpaceResponse(Space, ReadyModel):
    """A ready space."""

    bridges: dict[BridgeName, BridgeUse] = Field(
        description="What each bridge uses of `parameters`; requests that name no bridge use "
        f"`{DEFAULT_BRIDGE}`."
    )

    @classmethod
    def derived_fields(cls, record: Any) -> dict[str, Any]:
        """What each bridge uses of the record's parameters."""
        values = record.parameters.model_dump()
        uses = {
            bridge: BridgeUse(
                read={name: values[name] for name in read},
                write={name: values[name] for name in write},
            )
            for bridge, (read, write) in USED_PARAMETERS.items()
        }
        return {"bridges": uses}


class HeadResponse(Head, ReadyModel):
    """A ready head."""


class AnchorSetPage(ResponseModel):
    """A page of anchor sets."""

    items: list[AnchorSetResponse]
    cursor: str | None = Field(description="Query parameter of the next page; null on the last.")
    unreadable: list[str] = Field(
        [], description="Ids of resources that another release stored; GET of one says why."
    )


class SpacePage(ResponseModel):
    """A page of spaces."""

    items: list[SpaceResponse | RegistrationResponse]
    cursor: str | None = Field(description="Query parameter of the next page; null on the last.")
    unreadable: list[str] = Field(
        [], description="Ids of resources that another release stored; GET of one says why."
    )


class HeadPage(ResponseModel):
    """A page of heads."""

    items: list[HeadResponse | RegistrationResponse]
    cursor: str | None = Field(description="Query parameter of the next page; null on the last.")
    unreadable: list[str] = Field(
        [], description="Ids of resources that another release stored; GET of one says why."
    )


class TranslateResponse(EmbeddingsModel):
    """Embeddings translated into the target space."""

    source: ResourceRef
    target: ResourceRef
    bridge: BridgeName
    undefined: list[int] = Field(
        description="Indices of inputs at the mean of the source, which have no direction."
    )
    uncovered: list[int] = Field(
        description="Indices of inputs outside what the source's anchors cover."
    )
    warnings: list[str]


class EmbedResponse(EmbeddingsModel):
    """Embeddings of raw inputs; the fields from `target` are present with a target."""

    embeddings: NullableEmbeddings
    encoder: ResourceRef
    truncated: list[int] = Field(description="Indices of texts that were cut.")
    warnings: list[str]
    prompt_name: str | None = Field(
        None,
        description="Prompt that `input_type` selected, if that was sent; null: the model embeds "
        "such inputs without a prompt.",
    )
    target: ResourceRef | None = None
    bridge: BridgeName | None = None
    undefined: list[int] | None = Field(
        None, description="Indices of inputs at the mean of the source, which have no direction."
    )
    uncovered: list[int] | None = Field(
        None, description="Indices of inputs outside what the source's anchors cover."
    )


class _PredictionsModel(ResponseModel):
    predictions: Any
    head: ResourceRef
    bridge: BridgeName
    uncovered: list[int] = Field(
        description="Indices of inputs outside what the source's anchors cover."
    )
    undefined: list[int] | None = Field(
        None,
        description="Present for a regression, which has no confidence: indices of inputs at the "
        "mean of the source, whose values are those of the mean of the head's space.",
    )
    warnings: list[str]

    @classmethod
    def of(cls, result: InferenceResult, predictions: HeadPredictions, **fields: Any) -> Self:
        """The response with a result of a head, and further fields."""
        head = head_of(result.resolution)
        if head.problem_type == REGRESSION:
            fields["undefined"] = result.undefined
        return cls(
            predictions=predictions,
            head=ResourceRef.of(head),
            bridge=result.resolution.bridge,
            uncovered=result.coverage.uncovered,
            warnings=result.warnings,
            **fields,
        )


class ClassifyResponse(_PredictionsModel):
    """Predictions for embeddings."""

    predictions: HeadPredictions = Field(
        union_mode="left_to_right",
        description="One for each input: a label, the labels of a multi-label head, or the values "
        "of a regression.",
    )
    space: ResourceRef


class StitchResponse(_PredictionsModel):
    """Predictions for raw inputs."""

    predictions: (
        list[Prediction | None]
        | list[MultiLabelPrediction | None]
        | list[RegressionPrediction | None]
    ) = Field(
        union_mode="left_to_right",
        description="One for each input: a label, the labels of a multi-label head, or the values "
        "of a regression; null for a blank text, with `blank_texts: null`.",
    )
    encoder: ResourceRef
    truncated: list[int] = Field(description="Indices of texts that were cut.")
    prompt_name: str | None = Field(
        None,
        description="Prompt that `input_type` selected, if that was sent; null: the model embeds "
        "such inputs without a prompt.",
    )


class LiveResponse(ResponseModel):
    """The process responds."""

    live: Literal[True]


class ReadyResponse(ResponseModel):
    """Whether this process can serve and, for callers with a key, what it depends on.

    Only `draining` and `stalled` make a process not ready.
    """

    ready: bool
    registry: bool = Field(False, description="Whether the registry server responded a moment ago.")
    queue: bool = Field(
        False,
        description="Whether the queue server, or that of each shard, responded a moment ago.",
    )
    unavailable_shards: list[str] = Field(
        [], description="Shards whose servers did not respond, if the queue has several."
    )
    workers: int = Field(0, description="Number of live workers, 0 without the queue server.")
    draining: bool = Field(False, description="Whether this process is about to end.")
    stalled: list[str] = Field(
        [], description="Tasks and threads of this process that make no progress."
    )
    refused: dict[str, str] = Field(
        {}, description="Spaces whose encoder a worker cannot run, and why."
    )


class EncoderQueue(ResponseModel):
    """The queue of one encoder."""

    encoder: str
    model: str
    dtype: str = Field(description="Data type that the model is computed in.")
    waiting: int
    running: int
    oldest_seconds: float = Field(description="How long the first job has waited.")
    workers: int


class WorkerResponse(WorkerStatus, ResponseModel):
    """A live worker, by its own report."""

    loaded_models: list[str | None] = Field(
        description="Models of the encoders in `loaded`; null for an encoder that no space has."
    )


class WorkersResponse(ResponseModel):
    """The live workers and the queues."""

    workers: list[WorkerResponse]
    queues: list[EncoderQueue]
    waiting: int
    oldest_seconds: float
    unavailable_shards: list[str] = Field(
        [], description="The shards of the queue whose servers did not respond; they are left out."
    )


class InfoResponse(ResponseModel):
    """Version, methods, formats and limits of this service."""

    name: str
    version: str
    bridges: list[str]
    default_bridge: BridgeName
    media_types: list[str]
    limits: dict[str, int | float | dict[str, str]] = Field(
        description="Limits by the names of their settings."
    )
    durability: str = Field(description="What a 201 of a registration guarantees.")
    warnings: list[str] = Field(
        description="Settings of the registry and queue servers that lose or expose data."
    )
