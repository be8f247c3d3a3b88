"""A client of the service: numpy in and out, safetensors on the wire.

`Stitchwork` waits for its answers and `AsyncStitchwork` awaits them; what they send and what they
read is defined once, in `operations`.
"""

from stitchwork.client.batch_calls import Translated
from stitchwork.client.chunks import Floats
from stitchwork.client.clients import AsyncStitchwork, Stitchwork
from stitchwork.client.flows import SAFETENSORS
from stitchwork.client.operations import FileFormat, Kind, json_items
from stitchwork.client.progress import Progress
from stitchwork.client.service_errors import ServiceError

__all__ = [
    "SAFETENSORS",
    "AsyncStitchwork",
    "FileFormat",
    "Floats",
    "Kind",
    "Progress",
    "ServiceError",
    "Stitchwork",
    "Translated",
    "json_items",
]
