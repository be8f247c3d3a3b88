"""Resolve ids to the versions that a request uses: source, target, head and calibration."""

from dataclasses import dataclass

from stitchwork.errors import AnchorSetMismatchError, ErrorCode, InvalidInputError
from stitchwork.geometry.bridges import DEFAULT_BRIDGE, BridgeName
from stitchwork.geometry.calibration import Calibration
from stitchwork.registry.lookup import LookupResult, lookup, lookup_in_memory
from stitchwork.registry.registry import Registry
from stitchwork.resources import EncoderSpec, Floats, Head, Space
from stitchwork.resources.anchor_count import MIN_ANCHORS


@dataclass(frozen=True, slots=True)
class Resolution:
    """The versions that a request uses; its whole result is computed with them.

    Attributes:
        source: The space that inputs are in, or are embedded in.
        target: The space that they are translated into, which is the head's if there is one; None
            if they are not translated.
        head: The head that classifies them; None if they are not classified.
        bridge: The bridge from source to target.
        calibration: The calibration of the head for these versions and the bridge, if there is one.
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
        """The space of the resulting embeddings: the target or, without one, the source."""
        return self.target or self.source

    @property
    def is_own_space(self) -> bool:
        """Whether the result is in the space of the inputs, so that nothing is translated."""
        return self.source.version == self.destination.version

    @property
    def few_anchors(self) -> int | None:
        """Number of anchors of the translation, if there is one through too few; otherwise None."""
        is_translated = self.bridge != "none" and not self.is_own_space
        return self.source.size if is_translated and self.source.size < MIN_ANCHORS else None

    @property
    def records(self) -> dict[str, Space | Head]:
        """The spaces and the head by role: `source`, `target`, `head`."""
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
    """Resolve ids to their current versions, in one round trip to the registry.

    Args:
        registry: The registry.
        source: Id of the space of the inputs; None takes the head's.
        target: Id of the space to translate into; None takes the head's, if there is a head.
        head: Id of the head to classify with; None to not classify.
        bridge: The bridge from source to target.

    Returns:
        Versions that fit together: both spaces are on one anchor set, the head is in the target.

    Raises:
        UnknownResourceError: If an id is not registered.
        NotReadyError: If an id has no ready version yet.
        AnchorSetMismatchError: If the spaces do not share an anchor set.
        InvalidInputError: If the head is of another space than the target, or the bridge is
            `none` and the widths differ.
        RegistryUnavailableError: If the registry is unavailable and the last known versions are
            too old.
    """
    records = lookup(registry, source=source, target=target, head=head, bridge=bridge)
    return resolution_of(records, target, bridge)


def resolve_in_memory(
    registry: Registry,
    *,
    source: str | None = None,
    target: str | None = None,
    head: str | None = None,
    bridge: BridgeName = DEFAULT_BRIDGE,
) -> Resolution | None:
    """Like `resolve`, without a call to the registry.

    Returns:
        None if it takes a call, since this process has no lease, or has not used a record yet.
    """
    records = lookup_in_memory(registry, source=source, target=target, head=head, bridge=bridge)
    return None if records is None else resolution_of(records, target, bridge)


def resolution_of(records: LookupResult, target: str | None, bridge: BridgeName) -> Resolution:
    """The resolution of records, which must fit together.

    Args:
        records: The records that were looked up.
        target: Id of the space to translate into, if it was requested.
        bridge: The bridge.

    Raises:
        AnchorSetMismatchError: If the spaces do not share an anchor set.
        InvalidInputError: If the head is of another space than the target, or the bridge is
            `none` and the widths differ.
    """
    if records.target is not None:
        check_pair(records.source, records.target, bridge)
    if records.head is not None and target is not None and records.head.space != target:
        raise InvalidInputError(
            f"expected a head of space {target}, got head {records.head.id} of space "
            f"{records.head.space}",
            pointer="/head",
        )
    return Resolution(
        records.source, records.target, records.head, bridge, records.calibration, records.stale
    )


def check_pair(source: Space, target: Space, bridge: BridgeName) -> None:
    """Check that spaces can be translated into each other.

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


def check_width(
    rows: Floats, space: Space, pointer: str = "/embeddings", *, name: str = "embeddings"
) -> None:
    """Check that embeddings have the width of a space.

    Args:
        rows: (n, d) float32.
        space: The space that they are in.
        pointer: JSON pointer to the rows in the request.
        name: What the rows are called in the message.

    Raises:
        InvalidInputError: If d is not the space's width.
    """
    if rows.shape[1] != space.dim:
        raise InvalidInputError(
            f"expected {name} of {space.dim} numbers, as space {space.id} has, got {rows.shape[1]}",
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
