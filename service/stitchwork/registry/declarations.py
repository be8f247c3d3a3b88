"""From declarations to records: validation, versions, measures of anchors."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import numpy as np

from stitchwork.errors import AnchorSetMismatchError, InvalidInputError
from stitchwork.geometry.diagnostics.redundancy import MAX_COMPARED, find_duplicates
from stitchwork.geometry.diagnostics.space_metrics import (
    has_unit_rows,
    norm_statistics,
    spectrum,
)
from stitchwork.geometry.frame import Frame
from stitchwork.resources import (
    AnchorSet,
    Arrays,
    BridgeParameters,
    EncoderSpec,
    Floats,
    Modality,
    Space,
    digest,
    encoder_fields,
)
from stitchwork.resources.anchor_count import anchor_count_warnings

SUSPICIOUS: Final = 0.1
"""An agreement below this means that anchors are shuffled or foreign."""
DISAGREEMENT: Final = "agreement with every other space on the set is near zero"
MIN_RANK_SHARE: Final = 0.9
"""Share of the possible directions from which on anchors lack no diversity: the rows of many models
leave a few directions unused, which nothing is lost by."""
DEFAULTS: Final = BridgeParameters()
MAX_LISTED: Final = 10
"""Names that a message lists; it counts the rest."""
Names: TypeAlias = tuple[str, ...] | range


@dataclass(frozen=True, slots=True)
class SpaceDeclaration:
    """The declaration of a space.

    Attributes:
        id: The space's id.
        anchor_set: Id of the set its anchors belong to.
        encoder: Embeds inputs into the space, if the service is to do it.
        anchors: (k, d) float32 anchors, or None for the encoder to embed the set's items.
        ids: The anchors' names, in the order of the rows, if the set has names.
        parameters: The space's own parameters of the bridges.
        unit: Whether translations into the space have unit length; None decides by its anchors.
    """

    id: str
    anchor_set: str
    encoder: EncoderSpec | None = None
    anchors: Floats | None = None
    ids: tuple[str, ...] | None = None
    parameters: BridgeParameters = DEFAULTS
    unit: bool | None = None

    def version(self, anchor_set: AnchorSet) -> str:
        """The digest of the declaration; of anchors to be embedded, only their origin counts."""
        declared: dict[str, Any] = {
            "anchor_set": anchor_set.version,
            "encoder": encoder_fields(self.encoder) if self.encoder else None,
            "parameters": self.parameters.model_dump(),
        }
        # Without it, versions are those of releases that knew no unit spaces.
        if self.unit or (self.anchors is None and self.unit is not None):
            declared["unit"] = self.unit
        return digest(declared, {} if self.anchors is None else {"anchors": self.anchors})


def anchor_set_record(
    id_: str,
    modality: Modality,
    items: Arrays | None,
    ids: tuple[str, ...] | None,
    size: int | None,
    *,
    size_field: str = "size",
) -> AnchorSet:
    """The record of an anchor set.

    Args:
        id_: The set's id.
        modality: The modality of its items.
        items: The packed items, if any.
        ids: The anchors' names, if any.
        size: Their number; None if items or ids give it.
        size_field: Field of the request that the number comes from.

    Raises:
        InvalidInputError: If the number of anchors is missing or contradictory, there are fewer
            than two, or two ids are equal.
    """
    numbers = {
        "items": None if items is None else len(items["ends"]),
        "ids": None if ids is None else len(ids),
        size_field: size,
    }
    counts = {name: count for name, count in numbers.items() if count is not None}
    if not counts:
        raise InvalidInputError("expected items, ids, or a size; got none", pointer="")
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} by {name}" for name, count in counts.items())
        message = f"the number of anchors is contradictory: {listed}"
        raise InvalidInputError(message, pointer=f"/{list(counts)[-1]}")
    (count,) = set(counts.values())
    if count < 2:
        raise InvalidInputError(
            f"an anchor set needs at least 2 anchors, got {count}", pointer=f"/{next(iter(counts))}"
        )
    if ids is not None and len(set(ids)) < len(ids):
        first = {name: i for i, name in reversed(list(enumerate(ids)))}
        duplicate = next(i for i, name in enumerate(ids) if first[name] < i)
        message = f"the id {ids[duplicate]!r} occurs twice"
        raise InvalidInputError(message, pointer=f"/ids/{duplicate}")
    declared = {"modality": modality, "size": count, "ids": ids}
    raw = [] if items is None else _raw(items)
    return AnchorSet(
        id=id_,
        version=digest(declared, items),
        modality=modality,
        size=count,
        ids=ids,
        has_items=items is not None,
        warnings=tuple(_repetition_warnings(_copies(raw), _names(ids, count), "items")),
    )


def in_order(anchors: Floats, ids: tuple[str, ...] | None, anchor_set: AnchorSet) -> Floats:
    """The anchors in the order of their set.

    Args:
        anchors: (k, d) rows, in the order of `ids` or, without ids, of the set.
        ids: The rows' names.
        anchor_set: The set, whose own ids give the order.

    Returns:
        (k, d) the same rows; with ids, the order of the rows has no effect.

    Raises:
        AnchorSetMismatchError: If the number of rows is not the set's.
        InvalidInputError: If ids are missing, unknown or duplicate, or the set has none.
    """
    if len(anchors) != anchor_set.size:
        raise AnchorSetMismatchError(
            f"anchor set {anchor_set.id} has {anchor_set.size} anchors, got {len(anchors)} rows",
            pointer="/anchors",
        )
    if ids is None:
        return anchors
    if anchor_set.ids is None:
        raise InvalidInputError(f"anchor set {anchor_set.id} has no ids, send none", pointer="/ids")
    positions = {name: i for i, name in enumerate(ids)}
    missing = [name for name in anchor_set.ids if name not in positions]
    unknown = sorted(positions.keys() - set(anchor_set.ids))
    if missing or unknown or len(ids) != anchor_set.size:
        duplicate = [name for name, count in Counter(ids).items() if count > 1]
        problems = {"missing": missing, "unknown": unknown, "more than once": duplicate}
        listed = "; ".join(f"{name} {_some(ids)}" for name, ids in problems.items() if ids)
        raise InvalidInputError(
            f"expected the ids of anchor set {anchor_set.id}; {listed}", pointer="/ids"
        )
    return anchors[[positions[name] for name in anchor_set.ids]]


def space_record(
    declared: SpaceDeclaration,
    anchor_set: AnchorSet,
    anchors: Floats,
    frame: Frame,
    agreement: float | None,
    version: str,
) -> Space:
    """The record of a space, with measures of its anchors.

    Args:
        declared: The declaration.
        anchor_set: The set of its anchors.
        anchors: (k, d) float32 anchors in the set's order.
        frame: Their frame.
        agreement: Best agreement with a space on the same set; None if it is the first.
        version: The version of the space.
    """
    rank, condition = spectrum(frame)
    length = norm_statistics(anchors)
    is_unit = has_unit_rows(anchors)
    warnings = list(_warnings(anchors, frame, anchor_set.ids, rank, agreement))
    if declared.unit and not is_unit:
        warnings.append(
            f"translations have unit length, but the anchors have {length.mean:.3g} ± "
            f"{length.std:.2g}: a head or index of such embeddings expects other lengths"
        )
    warnings += anchor_count_warnings(len(anchors))
    return Space(
        id=declared.id,
        version=version,
        anchor_set=anchor_set.id,
        anchor_set_version=anchor_set.version,
        dim=anchors.shape[1],
        size=len(anchors),
        encoder=declared.encoder,
        parameters=declared.parameters,
        rank=rank,
        condition_number=condition,
        norm_mean=length.mean,
        norm_std=length.std,
        unit=is_unit if declared.unit is None else declared.unit,
        agreement=agreement,
        warnings=tuple(warnings),
    )


def _warnings(
    anchors: Floats,
    frame: Frame,
    ids: tuple[str, ...] | None,
    rank: int,
    agreement: float | None,
) -> tuple[str, ...]:
    count, width = anchors.shape
    warnings = []
    if agreement is not None and agreement < SUSPICIOUS:
        warnings.append(
            f"{DISAGREEMENT} ({agreement:.2f}): the same number of anchors, but probably not the "
            "same anchors in the same order"
        )
    warnings += _duplicate_warnings(anchors, frame, _names(ids, count))
    possible = min(count - 1, width)
    if rank < MIN_RANK_SHARE * possible:
        warnings.append(
            f"the anchors span only {rank} of the {possible} directions that {count} anchors of "
            f"width {width} can span; differences of embeddings in other directions are not "
            "translated. Choose anchors that differ more"
        )
    return tuple(warnings)


def _duplicate_warnings(anchors: Floats, frame: Frame, names: Names) -> list[str]:
    """Warnings about anchors that repeat others, exactly or almost."""
    # Minus zero becomes zero, so that equal rows have equal bytes.
    exact = _copies(_row_digest(row + np.float32(0)) for row in anchors)
    exact_copies = {i for i, _ in exact}
    groups = find_duplicates(replace(frame, unit_anchors=frame.unit_anchors[:MAX_COMPARED]))
    close = [(i, group[0]) for kind in groups for group in kind for i in group[1:]]
    close = [pair for pair in close if pair[0] not in exact_copies]
    warnings = _repetition_warnings(exact, names, "anchors")
    if 2 * len(exact) >= len(anchors):
        distinct = len(anchors) - len(exact)
        warnings.insert(0, f"only {distinct} of {len(anchors)} anchors are distinct")
    if close:
        where = "" if len(anchors) <= MAX_COMPARED else f" of the first {MAX_COMPARED}"
        message = (
            f"1 anchor{where} all but repeats another and adds no direction: "
            if len(close) == 1
            else f"{len(close)} anchors{where} all but repeat others and add no direction: "
        )
        warnings.append(message + _pairs(close, names))
    return warnings


def _row_digest(row: Floats) -> bytes:
    """A digest of a row, so that a comparison of many long rows holds no copies of them."""
    return hashlib.blake2b(row.data, digest_size=16).digest()


def _copies(raw: Iterable[bytes]) -> list[tuple[int, int]]:
    """The index of each part that repeats an earlier one, with the index of the first."""
    first: dict[bytes, int] = {}
    return [(i, first[part]) for i, part in enumerate(raw) if first.setdefault(part, i) < i]


def _repetition_warnings(copies: Sequence[tuple[int, int]], names: Names, plural: str) -> list[str]:
    if not copies:
        return []
    message = (
        f"1 {plural[:-1]} repeats another exactly; it shifts the mean and adds nothing: "
        if len(copies) == 1
        else f"{len(copies)} {plural} repeat others exactly; they shift the mean and add nothing: "
    )
    return [message + _pairs(copies, names)]


def _pairs(copies: Sequence[tuple[int, int]], names: Names) -> str:
    first_copies = sorted(copies)[:MAX_LISTED]
    listed = ", ".join(f"{names[i]!r} as {names[first]!r}" for i, first in first_copies)
    rest = f" and {len(copies) - MAX_LISTED} more" if len(copies) > MAX_LISTED else ""
    return listed + rest


def _raw(items: Arrays) -> list[bytes]:
    return [part.tobytes() for part in np.split(items["blob"], items["ends"][:-1])]


def _names(ids: tuple[str, ...] | None, count: int) -> Names:
    """The names of anchors in messages: their ids, or their indices if they have none."""
    return range(count) if ids is None else ids


def _some(names: Sequence[str]) -> str:
    rest = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return ", ".join(repr(name) for name in names[:MAX_LISTED]) + rest
