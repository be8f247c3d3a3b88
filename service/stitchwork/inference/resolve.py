"""From ids to the versions that one request uses: source, target, head and calibration."""

from dataclasses import dataclass

from stitchwork.errors import AnchorSetMismatchError, ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.registry.lookup import lookup
from stitchwork.registry.registry import Registry
from stitchwork.resources import EncoderSpec, Floats, Head, Space


@dataclass(frozen=True, slots=True)
class Resolution:
    """The versions that one request uses; all of its results come from these.

    Attributes:
        source: The space that inputs are in, or are embedded in.
        target: The space they are translated into; a head's is its own. None: they are not.
        head: The head that classifies them; None: they are not classified.
        bridge: The bridge from source to target.
        calibration: The calibration of the head's scores for these versions, if there is one.
        stale: Whether the registry was unavailable and these are the last known versions.
    """

    source: Space
    target: Space | None = None
    head: Head | None = None
    bridge: BridgeName = DEFAULT_BRIDGE
    calibration: Calibration | None = None
    stale: bool = False

    @property
    def destination(self) -> Space:
        """The space that embeddings end in."""
        return self.target or self.source

    @property
    def records(self) -> dict[str, Space | Head]:
        """What is used, by its role: `source`, `target` and `head`."""
        roles = {"source": self.source, "target": self.target, "head": self.head}
        return {role: record for role, record in roles.items() if record}


def resolve(
    registry: Registry,
    *,
    source: str | None = None,
    target: str | None = None,
    head: str | None = None,
    bridge: BridgeName = DEFAULT_BRIDGE,
) -> Resolution:
    """Resolve ids to the versions that serve now, in one round trip to the registry.

    Args:
        registry: The registry.
        source: Id of the space that inputs are in; None takes the head's own.
        target: Id of the space to translate into; None takes the head's own, if there is a head.
        head: Id of a head.
        bridge: The bridge from source to target.

    Returns:
        The versions, which can be combined: both spaces on one anchor set, the head in the target.

    Raises:
        UnknownResourceError: If an id is not registered.
        NotReadyError: If an id has no version that serves yet.
        AnchorSetMismatchError: If the spaces do not share an anchor set.
        InvalidInputError: If the head lives in another space than the target, or the bridge is
            `none` and the widths differ.
        RegistryUnavailableError: If the registry is unavailable and the last known versions are
            too old.
    """
    records = lookup(registry, source=source, target=target, head=head, bridge=bridge)
    if records.target is not None:
        check_pair(records.source, records.target, bridge)
    if records.head is not None and target is not None and records.head.space != target:
        raise InvalidInputError(
            f"head {records.head.id} lives in space {records.head.space}, expected one of space "
            f"{target}",
            pointer="/head",
        )
    return Resolution(
        records.source, records.target, records.head, bridge, records.calibration, records.stale
    )


def check_pair(source: Space, target: Space, bridge: BridgeName) -> None:
    """Refuse a pair of spaces that no bridge may join.

    Raises:
        AnchorSetMismatchError: If the spaces do not share an anchor set.
        InvalidInputError: If the bridge is `none` and the widths differ.
    """
    if (source.anchor_set, source.anchor_set_version) != (
        target.anchor_set,
        target.anchor_set_version,
    ):
        raise AnchorSetMismatchError(
            f"space {source.id} is on anchor set {source.anchor_set}, space {target.id} on "
            f"{target.anchor_set}: only spaces on the same anchor set can be translated"
        )
    if bridge == "none" and source.dim != target.dim:
        raise InvalidInputError(
            f"bridge none passes rows through, but space {source.id} is {source.dim} wide and "
            f"space {target.id} {target.dim}",
            pointer="/bridge",
            code=ErrorCode.WRONG_WIDTH,
        )


def check_width(rows: Floats, space: Space, pointer: str = "/embeddings") -> None:
    """Refuse embeddings that cannot be of a space.

    Args:
        rows: (n, d) float32.
        space: The space.
        pointer: JSON pointer to the rows in the request.

    Raises:
        InvalidInputError: If d is not the space's width.
    """
    if rows.shape[1] != space.dim:
        raise InvalidInputError(
            f"space {space.id} is {space.dim} wide, got embeddings of {rows.shape[1]}",
            pointer=pointer,
            code=ErrorCode.WRONG_WIDTH,
        )


def encoder_of(space: Space) -> EncoderSpec:
    """The encoder of a space.

    Raises:
        InvalidInputError: If it has none.
    """
    if space.encoder is None:
        raise InvalidInputError(
            f"space {space.id} has no encoder: send embeddings instead", code=ErrorCode.NO_ENCODER
        )
    return space.encoder


def head_of(resolution: Resolution) -> Head:
    """The head of a resolution, for callers that resolved one.

    Raises:
        ValueError: If it has none.
    """
    if resolution.head is None:
        raise ValueError("the resolution has no head")
    return resolution.head
