"""The rules of changes from the current state of an id to the next; no function has effects."""

from collections.abc import Sequence
from typing import Any, Final

from stitchwork.errors import ConflictError, ErrorCode, NotReadyError, ResourceInUseError
from stitchwork.redis.client import Check
from stitchwork.redis.commands import Command
from stitchwork.registry.entries import Entry, Outcome, Write
from stitchwork.resources import Arrays, EncoderSpec, Registration, Space, TextEncoder

MAX_HEAD_DISTANCE: Final = 0.05
"""Distance of new anchors up to which heads stay valid: that of another device or precision."""
ADVICE_WITH_HEADS: Final = (
    "register this encoder as another space on the same anchor set, from which the heads are "
    "reached by translation, or delete the heads and then register the space again"
)


def make_ready(
    current: Entry[Any],
    record: Any,
    arrays: Arrays,
    parent: Check,
    commands: Sequence[Command] = (),
) -> Write[Any]:
    """Make a record ready: the same version again changes nothing, another replaces it.

    Args:
        current: The current state.
        record: The new record.
        arrays: Its arrays.
        parent: Holds as long as the resource that it depends on is unchanged.
        commands: Further writes of the same commit.
    """
    if current.version == record.version:
        return Write(Outcome.SAME, current.record, checks=[parent])
    outcome = Outcome.REPLACED if current.record else Outcome.CREATED
    return Write(outcome, record, arrays=arrays, checks=[parent], commands=commands)


def begin_registration(
    current: Entry[Any],
    registration: Registration,
    checks: Sequence[Check],
    inputs: Arrays | None = None,
    *,
    reads_files: bool = False,
) -> Write[Any]:
    """Begin a registration beside the ready version; a pending one of this version goes on.

    Args:
        current: The current state.
        registration: The new registration.
        checks: What must still hold when it is written.
        inputs: What a worker needs for it.
        reads_files: Whether the version also depends on files. A worker then compares them with
            those of the ready version.
    """
    if is_declared(current, registration) and not reads_files:
        return Write(Outcome.SAME, current.record, checks=checks)
    pending = current.registration
    if pending and pending.version == registration.version and pending.status == "pending":
        return Write(Outcome.ACCEPTED, current.record, pending, checks=checks)
    return Write(Outcome.ACCEPTED, current.record, registration, inputs=inputs, checks=checks)


def is_declared(current: Entry[Any], registration: Registration) -> bool:
    """Whether the ready version was declared as a registration is."""
    record = current.record
    return record is not None and registration.version == (record.declaration or record.version)


def check_current(current: Entry[Any], registration: Registration | None) -> None:
    """Raise if a registration is no longer the current one.

    Args:
        current: The current state.
        registration: The registration that is to be completed or failed; None if there is none.

    Raises:
        NotReadyError: If it was replaced or removed.
    """
    if registration is None:
        return
    if current.registration is None or current.registration.version != registration.version:
        name = f"{registration.kind} {registration.id}"
        raise NotReadyError(f"{name} was declared anew while it was prepared")


def check_heads(current: Entry[Space], encoder: EncoderSpec | None, dim: int | None) -> None:
    """Raise if another encoder or width would break heads that live in the space.

    Args:
        current: The current state of the space.
        encoder: Its new encoder.
        dim: Its new width, d; None if it is not known yet.

    Raises:
        ResourceInUseError: If heads would break.
    """
    if current.record is None or not current.dependents:
        return
    before = current.record.encoder
    if before and encoder and before.kind == encoder.kind:
        # What is not set, such as the revision, is as the worker resolved it. Another data type is
        # compared by the distance of the anchors.
        unset = [name for name, value in encoder.model_dump().items() if value is None]
        names = [*unset, "dtype"]
        # Anchors do not depend on the prompts that requests may select.
        names += ["prompts"] if isinstance(before, TextEncoder) else []
        encoder = encoder.model_copy(update={name: getattr(before, name) for name in names})
    if (before and before != encoder) or dim not in (None, current.record.dim):
        raise ResourceInUseError(
            f"{current.dependents} heads live in space {current.id}: its encoder and its width "
            f"({current.record.dim}) cannot change; {ADVICE_WITH_HEADS}"
        )


def check_distance(current: Entry[Space], distance: float) -> None:
    """Raise if the heads that live in a space would get embeddings that they were not made for.

    Args:
        current: The current state of the space.
        distance: Root mean square distance of its new anchors to the current ones, in units of its
            scale.

    Raises:
        ResourceInUseError: If it has heads, and its anchors move.
    """
    if current.dependents and not distance <= MAX_HEAD_DISTANCE:
        raise ResourceInUseError(
            f"{current.dependents} heads live in space {current.id}, and its encoder embeds the "
            f"anchors elsewhere now: expected a distance of at most {MAX_HEAD_DISTANCE} of the "
            f"space's scale, got {distance:.2g}; {ADVICE_WITH_HEADS}"
        )


def not_ready_error(registration: Registration) -> ConflictError:
    """The error of a request for an id that has only a registration."""
    name = f"{registration.kind} {registration.id}"
    if registration.status == "failed":
        return ConflictError(
            f"the registration of {name} failed: {registration.reason}",
            code=ErrorCode.REGISTRATION_FAILED,
        )
    progress = f"{registration.done} of {registration.total} inputs are embedded"
    return NotReadyError(f"{name} is still being prepared: {progress}")
