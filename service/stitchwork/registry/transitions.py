"""The rules between what stands and what is to stand, each free of effects."""

from collections.abc import Sequence
from typing import Any

from stitchwork.errors import NotReadyError, ResourceInUseError
from stitchwork.redis.client import Check, Command
from stitchwork.registry.entries import Entry, Outcome, Write
from stitchwork.resources import Arrays, EncoderSpec, Registration, Space


def serve(
    stands: Entry[Any],
    record: Any,
    arrays: Arrays,
    parent: Check,
    commands: Sequence[Command] = (),
) -> Write[Any]:
    """Let a record serve: the same version again changes nothing, another replaces it.

    Args:
        stands: What stands now.
        record: What is to serve.
        arrays: Its arrays.
        parent: Holds as long as what it depends on is unchanged.
        commands: What is written with it.
    """
    if stands.version == record.version:
        return Write(Outcome.SAME, stands.record, checks=[parent])
    outcome = Outcome.REPLACED if stands.record else Outcome.CREATED
    return Write(outcome, record, arrays=arrays, checks=[parent], commands=commands)


def begin(
    stands: Entry[Any],
    registration: Registration,
    checks: Sequence[Check],
    inputs: Arrays | None = None,
) -> Write[Any]:
    """Begin a draft beside what serves; one of the same version that is under way goes on."""
    if stands.version == registration.version:
        return Write(Outcome.SAME, stands.record, checks=checks)
    begun = stands.registration
    if begun and begun.version == registration.version and begun.status == "pending":
        return Write(Outcome.ACCEPTED, stands.record, begun, checks=checks)
    return Write(Outcome.ACCEPTED, stands.record, registration, inputs=inputs, checks=checks)


def still_current(stands: Entry[Any], registration: Registration | None) -> None:
    """Refuse to complete a draft that is no longer the one being prepared.

    Raises:
        NotReadyError: If it was declared anew, or removed.
    """
    if registration and (
        stands.registration is None or stands.registration.version != registration.version
    ):
        raise NotReadyError(
            f"{registration.kind} {registration.id} was declared anew while it was prepared"
        )


def keep_heads(stands: Entry[Space], encoder: EncoderSpec | None, dim: int | None) -> None:
    """Refuse to put another encoder or width under heads that live in the space.

    Raises:
        ResourceInUseError: If heads would break; `dim` None means that the width is not known yet.
    """
    if stands.record is None or not stands.dependents:
        return
    known = stands.record.encoder
    if known and encoder and encoder.revision is None:
        # Whoever names no revision means the one that was pinned, until another is.
        encoder = encoder.model_copy(update={"revision": known.revision})
    if (known and known != encoder) or dim not in (None, stands.record.dim):
        raise ResourceInUseError(
            f"{stands.dependents} heads live in space {stands.id}: its encoder and its width "
            f"({stands.record.dim}) cannot change, register another space"
        )
