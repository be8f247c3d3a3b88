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


class Preparation(BaseModel):
    """What is being prepared."""

    version: str
    status: Literal["pending", "failed"]
    progress: Progress
    reason: str | None = Field(None, description="Why it failed.")


class Drafted(Preparation):
    """Something registered that no version serves of yet."""

    id: str
    outcome: str | None = None


class _Stands(BaseModel):
    status: Literal["ready"]
    pending: Preparation | None = Field(None, description="What is to replace it.")
    outcome: str | None = Field(None, description="What a PUT or POST did.")


class AnchorSetAnswer(AnchorSet, _Stands):
    """An anchor set."""


class SpaceAnswer(Space, _Stands):
    """A space that serves."""


class HeadAnswer(Head, _Stands):
    """A head that serves."""


class AnchorSets(BaseModel):
    """A page of anchor sets."""

    items: list[AnchorSetAnswer]
    cursor: str | None


class Spaces(BaseModel):
    """A page of spaces."""

    items: list[SpaceAnswer | Drafted]
    cursor: str | None


class Heads(BaseModel):
    """A page of heads."""

    items: list[HeadAnswer | Drafted]
    cursor: str | None


class Named(BaseModel):
    """A version that was used."""

    id: str
    version: str


class _Outside(BaseModel):
    uncovered: list[int] = Field(description="Inputs outside what the source's anchors cover.")
    warnings: list[str]


class Translated(_Outside):
    """Rows of one space in another."""

    embeddings: list[list[float] | str]
    source: Named
    target: Named
    bridge: BridgeName
    undefined: list[int]


class Embedded(BaseModel):
    """Raw inputs as rows; what follows `truncated` comes with a target."""

    embeddings: list[list[float] | str]
    encoder: Named
    truncated: list[int]
    target: Named | None = None
    bridge: BridgeName | None = None
    undefined: list[int] | None = None
    uncovered: list[int] | None = None
    warnings: list[str] | None = None


class Choice(BaseModel):
    """One class and its share of the softmax."""

    label: str
    score: float


class Prediction(Choice):
    """What one input is taken for."""

    top: list[Choice]
    confidence: float = Field(ge=0, le=1)
    calibrated: bool


class Classified(_Outside):
    """Predictions for embeddings."""

    predictions: list[Prediction]
    space: Named
    head: Named
    bridge: BridgeName


class Stitched(_Outside):
    """Predictions for raw inputs."""

    predictions: list[Prediction]
    encoder: Named
    head: Named
    bridge: BridgeName
    truncated: list[int]


class ComparedSpace(Named):
    """A space among those that are compared."""

    dim: int
    rank: int
    condition_number: float
    warnings: list[str]


class ComparedPair(BaseModel):
    """How held-out anchors of one space come back in another."""

    source: str
    target: str
    similarity: float | None
    recall_at_1: float | None
    chance: float | None
    agreement: float | None
    verdict: Verdict
    reason: str


class Matrix(BaseModel):
    """All ordered pairs of a set's spaces."""

    anchor_set: Named
    bridge: BridgeName
    anchors: int
    folds: int
    spaces: list[ComparedSpace]
    pairs: list[ComparedPair]


class Accuracy(BaseModel):
    """A share that was right, or why there is none."""

    accuracy: float | None
    interval: tuple[float, float] | None
    reason: str | None = None


class Trust(BaseModel):
    """How well confidence tells right from wrong."""

    calibrated: bool
    auroc: float | None
    ece: float
    reliability: list[dict[str, Any]]


class Judged(_Outside):
    """An encoder and a head, by a labelled sample."""

    encoder: Named
    head: Named
    bridge: BridgeName
    samples: int
    chance: float
    absolute: Accuracy
    translated: Accuracy
    native: Accuracy
    verdict: Verdict
    reason: str
    undefined: list[int]
    confidence: Trust
    calibration: dict[str, float] | None = None


class AnchorReport(BaseModel):
    """What a space's anchors tell about themselves; anchors by their ids, or by index."""

    space: Named
    target: Named | None
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


class NextAnchors(BaseModel):
    """Which rows of a pool to take next."""

    space: Named
    anchors: int
    used: int
    next: list[NextAnchor]


class Live(BaseModel):
    """The process answers."""

    live: Literal[True]


class Ready(BaseModel):
    """Whether this process can serve, and what is missing."""

    ready: bool
    registry: bool
    queue: bool
    workers: int
    draining: bool
    refused: dict[str, str] = {}


class Backlog(BaseModel):
    """What waits for one encoder."""

    encoder: str
    model: str
    waiting: int
    running: int
    oldest_seconds: float
    workers: int


class Fleet(BaseModel):
    """The live workers and the queues."""

    workers: list[WorkerStatus]
    queues: list[Backlog]
    waiting: int
    oldest_seconds: float


class Info(BaseModel):
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
