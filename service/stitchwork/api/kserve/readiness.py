"""Whether a model of the Open Inference Protocol can be used now."""

from stitchwork.api.dependencies import AppState
from stitchwork.api.kserve.models import find_model, parse_name
from stitchwork.inference.resolve import encoder_of
from stitchwork.queue import worker_registry
from stitchwork.queue.requirements import ModelRequirement


def check_ready(state: AppState, name: str, version: str | None) -> None:
    """Check that a model's resources are ready and a worker takes its work; blocks.

    Raises:
        StitchworkError: What `find_model` raises.
        NoWorkerError: If no live worker takes work for its encoder.
    """
    model = find_model(state.pipeline, parse_name(name), version)
    if model.name.takes_items:
        space = model.resolution.source
        requirement = ModelRequirement.of(encoder_of(space))
        worker_registry.check_accepting(state.producer.workers(), requirement, space.id)
