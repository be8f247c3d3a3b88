"""The rules of changes from the current state of an id to the next; no function has effects."""

from collections.abc import Sequence
from typing import Any

from stitchwork.errors import ConflictError, ErrorCode, NotReadyError, ResourceInUseError
from stitchwork.redis.client import Check
from stitchwork.redis.commands import Command
from stitchwork.registry.entries import Entry, Outcome, Write
from stitchwork.resources import Arrays, EncoderSpec, Registration, Space


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
) -> Write[Any]:
    """Begin a registration beside the ready version; a pending one of this version goes on.

    Args:
        current: The current state.
        registration: The new registration.
        checks: What must still hold when it is written.
        inputs: What a worker needs for it.
    """
    if current.version == registration.version:
        return Write(Outcome.SAME, current.record, checks=checks)
    pending = current.registration
    if pending and pending.version == registration.version and pending.status == "pending":
        return Write(Outcome.ACCEPTED, current.record, pending, checks=checks)
    return Write(Outcome.ACCEPTED, current.record, registration, inputs=inputs, checks=checks)


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
        # What is not set, such as the revision, is as the worker resolved it.
        unset = [name for name, value in encoder.model_dump().items() if value is None]
        encoder = encoder.model_copy(update={name: getattr(before, name) for name in unset})
    if (before and before != encoder) or dim not in (None, current.record.dim):
        raise ResourceInUseError(
            f"{current.dependents} heads live in space {current.id}: its encoder and its width "
            f"({current.record.dim}) cannot change, register another space"
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
