"""The base of the bodies of protocols that others define: OpenAI's API, Open Inference Protocol."""

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationInfo, model_validator

from stitchwork.api.schemas.request_model import RequestModel
from stitchwork.api.validation_errors import field_error
from stitchwork.errors import InvalidInputError
from stitchwork.telemetry import Metrics


class ProtocolModel(RequestModel):
    """A body, or a part of one, that is read as the protocol's other servers read it.

    Null means absent. Fields that are not declared are ignored, and counted in a metric, except
    those that would change the result.
    """

    model_config = ConfigDict(extra="allow")
    refused_fields: ClassVar[dict[str, str]] = {}
    """Fields of other servers that would change the result, with what to do instead. They are
    refused unless they are null or false."""

    @model_validator(mode="before")
    @classmethod
    def _absent_if_null(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, dict):
            return value
        fields = {name: member for name, member in value.items() if member is not None}
        for name in sorted(cls.refused_fields.keys() & fields.keys()):
            if fields[name] is not False:
                error = InvalidInputError(
                    f"would change the result, and is not supported: {cls.refused_fields[name]}",
                    pointer=f"/{name}",
                )
                raise field_error(error)
        return fields


def record_ignored(metrics: Metrics, model: BaseModel, others: int = 0) -> None:
    """Count the fields of a body that are ignored, and so many others, in the metric of them."""
    if ignored := count_ignored(model) + others:
        metrics.ignored_fields.inc(ignored)


def count_ignored(model: BaseModel) -> int:
    """The number of fields in a body that were ignored."""
    ignored = model.model_extra if isinstance(model, ProtocolModel) else None
    parts = (value for name in type(model).model_fields for value in _models(getattr(model, name)))
    return len(ignored or ()) + sum(map(count_ignored, parts))


def _models(value: Any) -> Iterator[BaseModel]:
    for member in value if isinstance(value, list) else (value,):
        if isinstance(member, BaseModel):
            yield member
