"""A client of the service: numpy in and out, safetensors on the wire.

`Stitchwork` waits for its answers and `AsyncStitchwork` awaits them; what they send and what they
read is defined once, in `operations`.
"""

from service.client.chunks import Floats
from service.client.flows import SAFETENSORS
from service.client.operations import FileFormat, Kind, json_items
from service.client.parts import Translated
from service.client.problems import ServiceProblem
from service.client.progress import Progress
from service.client.senders import AsyncStitchwork, Stitchwork

__all__ = [
    "SAFETENSORS",
    "AsyncStitchwork",
    "FileFormat",
    "Floats",
    "Kind",
    "Progress",
    "ServiceProblem",
    "Stitchwork",
    "Translated",
    "json_items",
]
