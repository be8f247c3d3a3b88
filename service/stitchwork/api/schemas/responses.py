"""What routes answer, as OpenAPI shows it; tests hold the running service to it."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from stitchwork.geometry.bridges import BridgeName
from stitchwork.queue.worker_registry import WorkerStatus
from stitchwork.resources import AnchorSet, Head, Space

Verdict = str


class Progress(BaseModel):
    """How far a draft is."""

    done: int
    total: int


class RegistrationStatus(BaseModel):
    """What is being prepared."""

    version: str
    status: Literal["pending", "failed"]
    progress: Progress
    reason: str | None = Field(None, description="Why it failed.")


class RegistrationResponse(RegistrationStatus):
    """Something registered that no version serves of yet."""

    id: str
    outcome: str | None = None


class _ReadyResource(BaseModel):
    status: Literal["ready"]
    pending: RegistrationStatus | None = Field(None, description="What is to replace it.")
    outcome: str | None = Field(None, description="What a PUT or POST did.")


class AnchorSetResponse(AnchorSet, _ReadyResource):
    """An anchor set."""


class SpaceResponse(Space, _ReadyResource):
    """A space that serves."""


class HeadResponse(Head, _ReadyResource):
    """A head that serves."""


class AnchorSetPage(BaseModel):
    """A page of anchor sets."""

    items: list[AnchorSetResponse]
    cursor: str | None


class SpacePage(BaseModel):
    """A page of spaces."""

    items: list[SpaceResponse | RegistrationResponse]
    cursor: str | None


class HeadPage(BaseModel):
    """A page of heads."""

    items: list[HeadResponse | RegistrationResponse]
    cursor: str | None


class ResourceRef(BaseModel):
    """A version that was used."""

    id: str
    version: str


class _Outside(BaseModel):
    uncovered: list[int] = Field(description="Inputs outside what the source's anchors cover.")
    warnings: list[str]


class TranslateResponse(_Outside):
    """Rows of one space in another."""

    embeddings: list[list[float] | str]
    source: ResourceRef
    target: ResourceRef
    bridge: BridgeName
    undefined: list[int]


class EmbedResponse(BaseModel):
    """Raw inputs as rows; what follows `truncated` comes with a target."""

    embeddings: list[list[float] | str]
    encoder: ResourceRef
    truncated: list[int]
    target: ResourceRef | None = None
    bridge: BridgeName | None = None
    undefined: list[int] | None = None
    uncovered: list[int] | None = None
    warnings: list[str] | None = None


class LabelScore(BaseModel):
    """One class and its share of the softmax."""

    label: str
    score: float


class Prediction(LabelScore):
    """What one input is taken for."""

    top: list[LabelScore]
    confidence: float = Field(ge=0, le=1)
    calibrated: bool


class ClassifyResponse(_Outside):
    """Predictions for embeddings."""

    predictions: list[Prediction]
    space: ResourceRef
    head: ResourceRef
    bridge: BridgeName


class StitchResponse(_Outside):
    """Predictions for raw inputs."""

    predictions: list[Prediction]
    encoder: ResourceRef
    head: ResourceRef
    bridge: BridgeName
    truncated: list[int]


class SpaceQuality(ResourceRef):
    """A space among those that are compared."""

    dim: int
    rank: int
    condition_number: float
    warnings: list[str]


class PairQuality(BaseModel):
    """How held-out anchors of one space come back in another."""

    source: str
    target: str
    similarity: float | None
    recall_at_1: float | None
    chance: float | None
    agreement: float | None
    verdict: Verdict
    reason: str


class CompatibilityResponse(BaseModel):
    """All ordered pairs of a set's spaces."""

    anchor_set: ResourceRef
    bridge: BridgeName
    anchors: int
    folds: int
    spaces: list[SpaceQuality]
    pairs: list[PairQuality]


class Accuracy(BaseModel):
    """A share that was right, or why there is none."""

    accuracy: float | None
    interval: tuple[float, float] | None
    reason: str | None = None


class ConfidenceQuality(BaseModel):
    """How well confidence tells right from wrong."""

    calibrated: bool
    auroc: float | None
    ece: float
    reliability: list[dict[str, Any]]


class HeadEvaluationResponse(_Outside):
    """An encoder and a head, by a labelled sample."""

    encoder: ResourceRef
    head: ResourceRef
    bridge: BridgeName
    samples: int
    chance: float
    absolute: Accuracy
    translated: Accuracy
    native: Accuracy
    verdict: Verdict
    reason: str
    undefined: list[int]
    confidence: ConfidenceQuality
    calibration: dict[str, float] | None = None


class AnchorReportResponse(BaseModel):
    """What a space's anchors tell about themselves; anchors by their ids, or by index."""

    space: ResourceRef
    target: ResourceRef | None
    bridge: BridgeName
    anchors: int
    compared: int
    used: int
    duplicates: dict[str, list[list[str | int]]]
    drop: list[dict[str, Any]]
    learning_curve: dict[str, Any]
    misaligned: list[dict[str, Any]] | None


class NextAnchor(BaseModel):
    """A row of the pool, and the distance that it closes."""

    index: int
    distance: float


class NextAnchorsResponse(BaseModel):
    """Which rows of a pool to take next."""

    space: ResourceRef
    anchors: int
    used: int
    next: list[NextAnchor]


class LiveResponse(BaseModel):
    """The process answers."""

    live: Literal[True]


class ReadyResponse(BaseModel):
    """Whether this process can serve, and what is missing."""

    ready: bool
    registry: bool
    queue: bool
    workers: int
    draining: bool
    refused: dict[str, str] = {}


class EncoderQueue(BaseModel):
    """What waits for one encoder."""

    encoder: str
    model: str
    waiting: int
    running: int
    oldest_seconds: float
    workers: int


class WorkersResponse(BaseModel):
    """The live workers and the queues."""

    workers: list[WorkerStatus]
    queues: list[EncoderQueue]
    waiting: int
    oldest_seconds: float


class InfoResponse(BaseModel):
    """What this service is and takes."""

    name: str
    version: str
    bridges: list[str]
    default_bridge: BridgeName
    media_types: list[str]
    limits: dict[str, float | dict[str, str]] = Field(
        description="Each limit of a request by the name of its setting."
    )
    durability: str
