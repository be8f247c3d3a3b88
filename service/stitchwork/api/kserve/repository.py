"""Which models there are, their configurations and their statistics."""

from collections.abc import Iterator
from typing import Any, Final

from stitchwork.api.dependencies import AppState
from stitchwork.api.kserve.models import (
    PLATFORM,
    Model,
    find_model,
    parse_name,
)
from stitchwork.api.kserve.schemas import (
    ConfigTensor,
    DurationStatistics,
    InferenceDurations,
    ModelConfiguration,
    ModelStatistics,
    RepositoryModel,
    TensorMetadata,
)
from stitchwork.errors import StitchworkError
from stitchwork.inference.resolve import Resolution, encoder_of
from stitchwork.queue import worker_registry
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.registry.entries import Entry
from stitchwork.resources import Head, Space

MAX_MODELS: Final = 1000
"""Models that are listed; others can be used as well."""
DATA_TYPES: Final = {
    "BYTES": "TYPE_STRING",
    "FP32": "TYPE_FP32",
    "BOOL": "TYPE_BOOL",
}
"""Names of the datatypes in a configuration."""


def list_models(state: AppState, *, ready: bool) -> list[RepositoryModel]:
    """The models of all registered spaces and heads, at most `MAX_MODELS`; blocks.

    Args:
        state: The state of the API.
        ready: List only those that can be used now.
    """
    spaces = state.registry.spaces.page(MAX_MODELS).entries
    heads = state.registry.heads.page(MAX_MODELS).entries
    ready_spaces = {entry.id: entry.record for entry in spaces if entry.record}
    ready_heads = [entry.record for entry in heads if entry.record]
    models = list[RepositoryModel]()
    if not ready:
        models += [_unready("embed", entry) for entry in spaces if not entry.record]
        models += [_unready("classify", entry) for entry in heads if not entry.record]
    refusals = dict[str, str]()
    for model in _models(ready_spaces, ready_heads):
        if len(models) >= MAX_MODELS:
            break
        reason = ""
        if model.name.takes_items:
            space = model.resolution.source
            if space.id not in refusals:
                refusals[space.id] = _refusal(state, space)
            reason = refusals[space.id]
        if reason and ready:
            continue
        models.append(
            RepositoryModel(
                name=model.name.text,
                version=model.version,
                state="UNAVAILABLE" if reason else "READY",
                reason=reason,
            )
        )
    return models


def _unready(operation: str, entry: Entry[Any]) -> RepositoryModel:
    """The model of a resource that was never ready."""
    reason = entry.registration.reason if entry.registration else None
    return RepositoryModel(
        name=f"{operation}:{entry.id}",
        version="",
        state="UNAVAILABLE",
        reason=reason or "its registration is pending",
    )


def _refusal(state: AppState, space: Space) -> str:
    """Why no worker embeds in a space; empty if one does."""
    requirement = ModelRequirement.of(encoder_of(space))
    try:
        worker_registry.check_accepting(state.producer.known_workers, requirement, space.id)
    except StitchworkError as error:
        return error.message
    return ""


def _models(spaces: dict[str, Space], heads: list[Head]) -> Iterator[Model]:
    """The models of spaces and heads: those of one resource come first."""
    on_set: dict[tuple[str, str], list[Space]] = {}
    for space in spaces.values():
        on_set.setdefault((space.anchor_set, space.anchor_set_version), []).append(space)
    for space in spaces.values():
        if space.encoder:
            yield _model("embed", Resolution(space), space.id)
    for head in heads:
        if head.space in spaces:
            space = spaces[head.space]
            yield _model("classify", Resolution(space, space, head), head.id)
    for head in heads:
        if head.space not in spaces:
            continue
        target = spaces[head.space]
        for source in on_set[target.anchor_set, target.anchor_set_version]:
            resolution = Resolution(source, target, head)
            if source.encoder:
                yield _model("stitch", resolution, source.id, head.id)
            if source.id != target.id:
                yield _model("classify", resolution, source.id, head.id)
    for source in spaces.values():
        for target in on_set[source.anchor_set, source.anchor_set_version]:
            if target.id != source.id:
                resolution = Resolution(source, target)
                yield _model("translate", resolution, source.id, target.id)
                if source.encoder:
                    yield _model("embed", resolution, source.id, target.id)


def _model(operation: str, resolution: Resolution, *ids: str) -> Model:
    name = parse_name(":".join((operation, *ids)))
    return Model(name, resolution)


def configuration(model: Model) -> ModelConfiguration:
    """The configuration of a model, as far as one has it here.

    The first dimension of each tensor is one of its dimensions, so there is no batch dimension
    beside them: `max_batch_size` is 0.
    """
    metadata = model.metadata
    return ModelConfiguration(
        name=metadata.name,
        platform=PLATFORM,
        backend=PLATFORM,
        max_batch_size=0,
        input=[_config_tensor(tensor) for tensor in metadata.inputs],
        output=[_config_tensor(tensor) for tensor in metadata.outputs],
    )


def _config_tensor(tensor: TensorMetadata) -> ConfigTensor:
    return ConfigTensor(
        name=tensor.name, data_type=DATA_TYPES[tensor.datatype], dims=list(tensor.shape)
    )


def statistics(state: AppState, name: str, version: str | None = None) -> list[ModelStatistics]:
    """The statistics of a model, or of all that were used if the name is empty; blocks.

    Raises:
        StitchworkError: What `find_model` raises.
    """
    if name:
        return [_statistics(state, find_model(state.pipeline, parse_name(name), version))]
    entries = []
    for used in state.model_statistics.names:
        try:
            entries.append(_statistics(state, find_model(state.pipeline, parse_name(used))))
        except StitchworkError:
            # It was deleted, or is not ready any more.
            continue
    return entries


def _statistics(state: AppState, model: Model) -> ModelStatistics:
    counts = state.model_statistics.of(model.name.text)
    return ModelStatistics(
        name=model.name.text,
        version=model.version,
        last_inference=counts.last_ms,
        inference_count=counts.inputs,
        execution_count=counts.successes,
        inference_stats=InferenceDurations(
            success=DurationStatistics(count=counts.successes, ns=counts.success_ns),
            fail=DurationStatistics(count=counts.failures, ns=counts.failure_ns),
        ),
    )
