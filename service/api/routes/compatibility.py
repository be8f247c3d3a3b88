"""What fits what: spaces among themselves by their anchors, an encoder and a head by a sample."""

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.api import verdicts, wire
from service.api.compatibility import Comparison
from service.api.depends import Parts, PartsDep, SecondsDep
from service.api.routes.answers import named
from service.errors import AnchorSetMismatch, InvalidInput
from service.geometry.bridges import BridgeName
from service.geometry.held_out import FOLDS, some
from service.records import AnchorSet, Space, check_id

router = APIRouter(tags=["compatibility"])

MOST_SPACES: Final = 16
"""Spaces that are compared in one request: 240 pairs."""


@router.get("/compatibility", summary="Compare the spaces of an anchor set")
async def matrix(
    parts: PartsDep,
    seconds: SecondsDep,
    anchor_set: Annotated[str, Query(description="Id of the set.")],
    bridge: BridgeName = "ridge",
    spaces: Annotated[
        str | None, Query(description=f"Ids between commas, at most {MOST_SPACES}; unset: all.")
    ] = None,
) -> Response:
    """All ordered pairs of spaces: how held-out anchors of one come back in the other, no labels.

    Computed once for each pair of versions. What takes longer than the request may is computed
    to its end all the same: ask again.
    """
    names = None if spaces is None else [check_id(name, "/spaces") for name in spaces.split(",")]
    check_id(anchor_set, "/anchor_set")
    return await parts.comparing.run(lambda: _matrix(parts, anchor_set, names, bridge), seconds)


def _matrix(parts: Parts, set_id: str, names: list[str] | None, bridge: BridgeName) -> Response:
    (anchor_set,), stale = parts.registry.anchor_sets.ready(set_id)
    spaces = _spaces(parts, anchor_set, names)
    found = parts.comparisons.of(spaces, bridge)
    used = len(some(anchor_set.size))
    return wire.answer(
        {
            "anchor_set": {"id": anchor_set.id, "version": anchor_set.version},
            "bridge": bridge,
            "anchors": used,
            "folds": FOLDS,
            "spaces": [
                {
                    **named(space),
                    "dim": space.dim,
                    "rank": space.rank,
                    "condition_number": space.condition_number,
                    "warnings": space.warnings,
                }
                for space in spaces
            ],
            "pairs": [
                _shown(source, target, compared, used)
                for (source, target), compared in found.items()
            ],
        },
        headers={"Stitchwork-Stale": "true"} if stale else {},
    )


def _spaces(parts: Parts, anchor_set: AnchorSet, names: list[str] | None) -> list[Space]:
    """The spaces that are to be compared: those named, or all of the set that serve."""
    if names is None:
        kept = parts.registry.anchor_sets.dependents(anchor_set.id)
        ids = [name.removeprefix("space:") for name in kept]
    else:
        ids = list(dict.fromkeys(names))
    if len(ids) > MOST_SPACES:
        raise InvalidInput(
            f"expected at most {MOST_SPACES} spaces at once, got {len(ids)}; name some of them by "
            "spaces=a,b,c",
            pointer="/spaces",
            code="too-many-spaces",
        )
    if names is not None:
        chosen, _ = parts.registry.spaces.ready(*ids)
        for space in chosen:
            if space.anchor_set_version != anchor_set.version or space.anchor_set != anchor_set.id:
                raise AnchorSetMismatch(
                    f"space {space.id} is on anchor set {space.anchor_set}, not {anchor_set.id}",
                    pointer="/spaces",
                )
        return chosen
    entries = parts.registry.spaces.read(*ids) if ids else []
    serving = [entry.record for entry in entries if entry.record]
    return [space for space in serving if space.anchor_set_version == anchor_set.version]


def _shown(source: str, target: str, compared: Comparison, anchors: int) -> dict[str, Any]:
    held = compared.held
    told = verdicts.of_pair(held, compared.agreement, anchors)
    return {
        "source": source,
        "target": target,
        "similarity": held and held.similarity,
        "recall_at_1": held and held.recall,
        "chance": held and held.chance,
        "agreement": compared.agreement,
        "verdict": told.verdict,
        "reason": told.reason,
    }
