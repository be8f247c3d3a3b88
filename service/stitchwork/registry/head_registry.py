"""The rules for heads: declared with their weights, or to be fitted or extracted by a worker."""

from typing import Any, Final

import numpy as np

from stitchwork.errors import ErrorCode, InvalidInputError
from stitchwork.geometry.classifier import Classifier
from stitchwork.registry.entries import ANY, Condition, Entry, Outcome, Write
from stitchwork.registry.head_records import (
    HeadDefinition,
    classifier_of,
    declared_fields,
    head_record,
    layer_arrays,
)
from stitchwork.registry.repository import Repository
from stitchwork.registry.transitions import begin_registration, check_current, make_ready
from stitchwork.resources import (
    Arrays,
    EncoderSpec,
    Head,
    Registration,
    Space,
    computed_version,
    digest,
    encoder_fields,
)
from stitchwork.resources.training_inputs import Digests

TRAINING_INPUTS: Final = "training_inputs"
"""Name of the digests among a head's arrays, whose names begin with the number of a layer."""


class HeadRegistry:
    """Declares and completes heads.

    Args:
        spaces: The repository of spaces.
        heads: The repository of heads.
    """

    def __init__(self, spaces: Repository[Space], heads: Repository[Head]) -> None:
        self._spaces = spaces
        self._heads = heads

    def declare(
        self,
        id_: str,
        space: str,
        head: HeadDefinition,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[Head]]:
        """Register a head by its weights.

        Raises:
            UnknownResourceError: If the space is not registered.
            InvalidInputError: If the head takes another width than the space has.
        """
        arrays = layer_arrays(head.classifier)
        version = digest({"space": space, **declared_fields(head)}, arrays)
        record = head_record(id_, space, head, version, "weights")
        return self._put(record, arrays, condition)

    def begin(
        self,
        id_: str,
        space: str,
        declared: dict[str, Any],
        *,
        inputs: Arrays | None = None,
        encoder: EncoderSpec | None = None,
        total: int = 0,
        condition: Condition = ANY,
    ) -> tuple[Outcome, Entry[Head]]:
        """Register a head that a worker fits, or extracts from a pretrained model.

        Args:
            id_: The head's id.
            space: Id of its space.
            declared: What the worker needs, as JSON; part of the version.
            inputs: The data to fit on; part of the version.
            encoder: Embeds those inputs, or holds the classifier.
            total: How many inputs there are to embed.
            condition: The version that the caller expects.

        Raises:
            UnknownResourceError: If the space is not registered.
            NotReadyError: If the space has no ready version yet.
        """
        spec = encoder_fields(encoder) if encoder else None
        registration = Registration(
            kind="head",
            id=id_,
            version=digest({"space": space, "encoder": spec, **declared}, inputs),
            encoder=encoder,
            parent=f"space:{space}",
            declared={"space": space, **declared},
            total=total,
        )

        def decide(current: Entry[Head]) -> Write[Head]:
            (parent,) = self._spaces.read(space)
            self._spaces.ready_record(parent)
            checks = [self._spaces.unchanged(parent)]
            reads_files = declared["source"] == "classifier"
            return begin_registration(
                current, registration, checks, inputs, reads_files=reads_files
            )

        return self._heads.put(id_, decide, condition)

    def complete(
        self,
        registration: Registration,
        head: HeadDefinition,
        train: tuple[int, float] | None = None,
        files_digest: str | None = None,
        inputs: Digests | None = None,
    ) -> tuple[Outcome, Entry[Head]]:
        """Make a registration the ready version.

        Args:
            registration: The registration.
            head: The head.
            train: Rows it was fitted on and accuracy on them, if it was fitted.
            files_digest: Digest of the files that it was read from, if it was.
            inputs: Digests of the inputs it was fitted on, if it was fitted.

        Raises:
            NotReadyError: If the registration is no longer the current one.
            InvalidInputError: If the head takes another width than the space has.
        """
        space, source = registration.declared["space"], registration.declared["source"]
        arrays = layer_arrays(head.classifier)
        version = computed_version(
            registration.version, files_digest, declared_fields(head), arrays
        )
        record = head_record(registration.id, space, head, version, source, train)
        if inputs is not None:
            arrays[TRAINING_INPUTS] = np.unique(inputs)
        update = {"files_digest": files_digest, "declaration": registration.version}
        return self._put(record.model_copy(update=update), arrays, ANY, registration)

    def training_inputs(self, head: Head) -> Digests:
        """Ascending digests of the inputs that a head was fitted on.

        Returns:
            (n,), empty for a head that the service has not fitted, or that it fitted before it
            stored digests.
        """
        if head.source != "fit":
            return np.zeros(0, np.int64)
        arrays = self._heads.arrays(head.id, head.version)
        return arrays.get(TRAINING_INPUTS, np.zeros(0, np.int64))

    def classifier(self, head: Head) -> Classifier:
        """The head's layers, float32 numpy."""
        return classifier_of(self._heads.arrays(head.id, head.version), head)

    def _put(
        self,
        record: Head,
        arrays: Arrays,
        condition: Condition,
        registration: Registration | None = None,
    ) -> tuple[Outcome, Entry[Head]]:
        def decide(current: Entry[Head]) -> Write[Head]:
            check_current(current, registration)
            (parent,) = self._spaces.read(record.space)
            space = self._spaces.ready_record(parent)
            if space.dim != record.dim:
                raise InvalidInputError(
                    f"space {space.id} is {space.dim} wide, the head takes {record.dim}",
                    pointer="/weight" if len(record.layers) == 1 else "/layers/0",
                    code=ErrorCode.WRONG_WIDTH,
                )
            return make_ready(current, record, arrays, self._spaces.unchanged(parent))

        return self._heads.put(record.id, decide, condition)
