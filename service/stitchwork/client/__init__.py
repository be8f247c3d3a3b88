"""A client of the service: numpy arrays in and out, safetensors over HTTP.

`Stitchwork` returns results and `AsyncStitchwork` returns awaitables. Their methods are defined
once, in `resource_operations`, `inference_operations`, `report_operations` and `move_operations`.
"""

from stitchwork.client.batch_calls import TranslationResult
from stitchwork.client.chunks import Floats, Rows, Sink, json_items
from stitchwork.client.clients import AsyncStitchwork, Stitchwork
from stitchwork.client.flows import SAFETENSORS
from stitchwork.client.inference_operations import FileFormat
from stitchwork.client.partial_results import PartialResult
from stitchwork.client.progress import Progress
from stitchwork.client.resource_operations import Kind
from stitchwork.client.service_errors import ServiceError

__all__ = [
    "SAFETENSORS",
    "AsyncStitchwork",
    "FileFormat",
    "Floats",
    "Kind",
    "PartialResult",
    "Progress",
    "Rows",
    "ServiceError",
    "Sink",
    "Stitchwork",
    "TranslationResult",
    "json_items",
]
