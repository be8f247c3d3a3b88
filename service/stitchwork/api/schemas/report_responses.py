"""Response bodies of reports: compatibility, evaluation of heads, and anchors."""

from typing import Annotated, Literal

from pydantic import Field

from stitchwork.api.schemas.response_model import ResponseModel
from stitchwork.api.schemas.responses import Progress, ResourceRef
from stitchwork.geometry.bridges import BridgeName

VerdictLevel = Literal["good", "fair", "poor"]
AnchorName = Annotated[
    str | int, Field(description="Id of an anchor, or its index if its set has no ids.")
]


class ReportProgressResponse(ResponseModel):
    """A report that is computed; the same request returns it once it is done."""

    status: Literal["pending"]
    progress: Progress


class SpaceQuality(ResourceRef):
    """A space among those that are compared."""

    dim: int
    rank: int
    condition_number: float
    warnings: tuple[str, ...]


class PairQuality(ResponseModel):
    """How well held-out anchors of one space translate into another.

    Numbers are null if there are too few anchors to hold some out.
    """

    source: str
    target: str
    similarity: float | None = Field(description="Mean cosine to the target's own rows.")
    recall_at_1: float | None = Field(
        description="Share of anchors whose nearest row in the target is their own."
    )
    chance: float | None = Field(description="`recall_at_1` of a random guess.")
    agreement: float | None = Field(
        description="Correlation of the anchors' cosines in both spaces."
    )
    verdict: VerdictLevel
    reason: str


class CompatibilityResponse(ResponseModel):
    """Ordered pairs of the spaces on an anchor set, by their sources."""

    anchor_set: ResourceRef
    bridge: BridgeName
    anchors: int = Field(description="Number of anchors used.")
    folds: int
    spaces: list[SpaceQuality] = Field(description="All spaces that are compared.")
    pairs: list[PairQuality]
    cursor: str | None = Field(description="Query parameter of the next page; null on the last.")


class Accuracy(ResponseModel):
    """The share of correct predictions, or the reason why it is unknown.

    A prediction of a multi-label head is correct if all of its labels are.
    """

    accuracy: float | None
    interval: tuple[float, float] | None = Field(description="95% confidence interval.")
    f1: float | None = Field(
        None, description="Of a multi-label head: F1 of all its decisions together (micro)."
    )
    reason: str | None = None


class RegressionQuality(ResponseModel):
    """How well values are predicted, or the reason why it is unknown."""

    r2: float | None = Field(
        description="Share of the variance that is explained, over all values together; 0 is "
        "predicting the mean of each."
    )
    interval: tuple[float, float] | None = Field(description="95% confidence interval of r2.")
    mae: float | None = Field(description="Mean absolute error.")
    reason: str | None = None


class ReliabilityBinResponse(ResponseModel):
    """Predictions whose confidence is between two bounds."""

    low: float
    high: float
    size: int
    confidence: float = Field(description="Mean confidence.")
    accuracy: float


class ConfidenceQuality(ResponseModel):
    """How well confidence separates correct from wrong predictions, and how calibrated it is."""

    calibrated: bool
    auroc: float | None = Field(description="Null if all predictions are correct, or all wrong.")
    ece: float = Field(description="Expected calibration error.")
    reliability: list[ReliabilityBinResponse]


class CalibrationResponse(ResponseModel):
    """A logistic calibration of confidence."""

    slope: float
    offset: float


class ThresholdResponse(ResponseModel):
    """The confidence from which on predictions have the accuracy that was requested."""

    min_accuracy: float
    confidence: float | None = Field(
        description="The smallest confidence to accept, at which the exact lower bound of the "
        "accuracy is `min_accuracy` or more; null if there is none."
    )
    accuracy: float | None = Field(description="Of the sample's accepted predictions.")
    interval: tuple[float, float] | None = Field(description="95% confidence interval.")
    coverage: float | None = Field(description="Share of the sample that is accepted.")
    reason: str | None = None


class HeadEvaluationResponse(ResponseModel):
    """An encoder and a head, evaluated on a labelled sample."""

    encoder: ResourceRef
    head: ResourceRef
    bridge: BridgeName
    samples: int
    chance: float = Field(
        description="Accuracy of always predicting the most frequent class or set of labels; r2 of "
        "always predicting the mean."
    )
    absolute: Accuracy | RegressionQuality = Field(description="Without a bridge.")
    translated: Accuracy | RegressionQuality = Field(description="Through the bridge.")
    native: Accuracy | RegressionQuality = Field(
        description="On embeddings of the head's own encoder."
    )
    verdict: VerdictLevel
    reason: str
    undefined: list[int] = Field(
        description="Indices of inputs at the mean of the source, which have no direction."
    )
    uncovered: list[int] = Field(
        description="Indices of inputs outside what the source's anchors cover."
    )
    warnings: list[str]
    confidence: ConfidenceQuality | None = Field(
        None, description="Absent for a regression, which has no confidence."
    )
    calibration: CalibrationResponse | None = Field(
        None, description="Present if the request has `calibrate`."
    )
    threshold: ThresholdResponse | None = Field(
        None, description="Present if the request has `min_accuracy`."
    )


class DuplicateAnchors(ResponseModel):
    """Groups of anchors that are equal, or nearly so."""

    exact: list[list[AnchorName]]
    near: list[list[AnchorName]]


class RedundantAnchor(ResponseModel):
    """An anchor that could be removed, and its distance to the nearest that remains."""

    anchor: AnchorName
    distance: float


class LearningCurvePointResponse(ResponseModel):
    """Held-out similarity with some of the anchors."""

    anchors: int
    similarity: float
    std: float


class LearningCurveResponse(ResponseModel):
    """How held-out similarity grows with the number of anchors."""

    points: list[LearningCurvePointResponse]
    doubled: float | None = Field(description="Similarity expected of twice as many anchors.")
    enough: bool
    reason: str


class MisalignedAnchor(ResponseModel):
    """An anchor whose rows in the two spaces do not seem to be of one input."""

    anchor: AnchorName
    probability: float
    cosine: float
    rank: int
    fits: AnchorName = Field(description="The anchor whose row in the target fits best.")


Point = Annotated[tuple[float, float], Field(description="On the first two components.")]


class AnchorMapResponse(ResponseModel):
    """Anchors in two dimensions, in units of their spread.

    The axes are the principal components of a space: its own for `source`, and those of the target
    for the others. If a bridge holds, `translated` lies on `target`.
    """

    anchors: list[AnchorName]
    source: list[Point] = Field(description="In the space itself.")
    target: list[Point] | None = Field(description="In the target; null without one.")
    translated: list[Point] | None = Field(
        description="Each translated by a bridge that was fitted without it; null without a target "
        "or with too few anchors."
    )


class AnchorReportResponse(ResponseModel):
    """Quality of a space's anchors."""

    space: ResourceRef
    target: ResourceRef | None
    bridge: BridgeName
    anchors: int
    compared: int = Field(description="Number of anchors searched for duplicates.")
    used: int = Field(description="Number of anchors that the other fields are computed from.")
    duplicates: DuplicateAnchors
    drop: list[RedundantAnchor]
    learning_curve: LearningCurveResponse
    misaligned: list[MisalignedAnchor] | None = Field(description="Null without a target.")
    spectrum: list[float] = Field(
        description="Shares of the variance of the anchors, by principal component."
    )
    map: AnchorMapResponse


class ChosenAnchor(ResponseModel):
    """A row of the pool, and its distance to the anchors and to the rows before it."""

    index: int
    distance: float = Field(description="1 - cos to the nearest one; 2 if there is none.")


class ChosenAnchorsResponse(ResponseModel):
    """Rows of a pool to take as anchors, in order."""

    space: ResourceRef | None
    pool: int = Field(description="Number of rows that were chosen from.")
    chosen: list[ChosenAnchor]


class NearestAnchor(ResponseModel):
    """An anchor near a row."""

    anchor: AnchorName
    cosine: float = Field(description="Of both, from the mean of the anchors.")
    text: str | None = Field(
        None, description="The beginning of the anchor's text, if its set has texts."
    )


class NearestAnchorsResponse(ResponseModel):
    """For each row the anchors of its space with the largest cosines, in descending order."""

    space: ResourceRef
    nearest: list[list[NearestAnchor]] = Field(
        description="An empty list for an input without a direction."
    )
    undefined: list[int] = Field(
        description="Indices of inputs at the mean of the anchors, which have no direction."
    )
