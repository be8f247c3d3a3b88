"""Assessments of moves that the service lists."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from stitchwork.errors import InvalidInputError, StitchworkError, UnknownResourceError
from stitchwork.migration.checkpoints import Checkpoint
from stitchwork.migration.file_shards import folder_key, read_plan
from stitchwork.migration.reject_reasons import shortened
from stitchwork.migration.store_assessment import StoreAssessment
from stitchwork.migration.stores import state_folder, target_key
from stitchwork.resources.moves import MAX_TEXT, MAX_WARNINGS, MoveAssessment

if TYPE_CHECKING:
    from stitchwork.client import Stitchwork

NOT_LISTED: Final = "the service does not list the assessment with the move"


@dataclass(frozen=True, slots=True)
class ReportedMove:
    """A move as the service lists it.

    Attributes:
        ids: Its id or, of shards, the id of each.
        versions: What its map is of.
    """

    ids: list[str]
    versions: dict[str, str]

    @classmethod
    def read(cls, target: str, folder: Path | None) -> Self | None:
        """The move that has written a store.

        Args:
            target: The store.
            folder: The folder of its checkpoint; None for the default one, which may be missing.

        Returns:
            None if there is no checkpoint, or one of an earlier release.

        Raises:
            InvalidInputError: If the folder is none of a move to this store.
        """
        path = folder or state_folder(target)
        plan = read_plan(path)
        if plan is None:
            checkpoints = [Checkpoint.read(path)]
            ids = [checkpoint.id for checkpoint in checkpoints if checkpoint is not None]
        else:
            checkpoints = [Checkpoint.read(path / f"{name}.migration") for name in plan.files]
            # A shard without files has nothing to report.
            count = min(plan.shards, len(plan.files)) if plan.id else 0
            ids = [f"{plan.id}-{index}" for index in range(count)]
        first = next((checkpoint for checkpoint in checkpoints if checkpoint is not None), None)
        is_to_target = first is not None and (
            target_key(first.move.target) == target_key(target)
            if plan is None
            else plan.target == folder_key(target)
        )
        if folder is not None and not is_to_target:
            raise InvalidInputError(
                f"{folder}: expected the checkpoint of a move to {target}, got "
                f"{'none' if first is None else f'one to {first.move.target}'}"
            )
        if first is None or not is_to_target or not ids or not all(ids):
            return None
        return cls(ids, first.move.versions._asdict())


def report_assessment(
    client: "Stitchwork", move: ReportedMove, result: StoreAssessment
) -> list[str]:
    """Report the assessment of a move, so that the service lists it.

    Args:
        client: A client of the service.
        move: The move.
        result: The assessment of the store that it has written.

    Returns:
        A warning if the service does not list it, or not with every shard.
    """
    others = {name for name, value in move.versions.items() if result.fields[name] != value}
    if others:
        listed = ", ".join(name.replace("_", " ") for name in sorted(others))
        return [f"{NOT_LISTED}, which is of another {listed}"]
    names = MoveAssessment.model_fields.keys() & result.fields.keys()
    fields: dict[str, Any] = {name: result.fields[name] for name in names}
    if result.advice is not None:
        fields["action"] = result.advice.action
        reasons = result.advice.reasons[:MAX_WARNINGS]
        fields["reasons"] = [shortened(reason, MAX_TEXT) for reason in reasons]
    unknown: list[UnknownResourceError] = []
    try:
        for id_ in move.ids:
            try:
                client.report_move_assessment(id_, fields)
            except UnknownResourceError as error:
                # The others may be listed still.
                unknown.append(error)
    except StitchworkError as error:
        return [f"{NOT_LISTED}: {error}"]
    if unknown and len(move.ids) > 1:
        return [f"{NOT_LISTED} of {len(unknown)} of {len(move.ids)} shards: {unknown[0]}"]
    return [f"{NOT_LISTED}: {error}" for error in unknown]
