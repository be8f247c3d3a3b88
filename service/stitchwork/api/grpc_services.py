"""The standard services of gRPC: health checks and reflection.

Routes that `api.grpc_server` calls, as those of the Open Inference Protocol.
"""

import asyncio
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.routing import APIRoute
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2
from starlette.responses import Response

from stitchwork.api.dependencies import app_state
from stitchwork.api.direct_routes import DirectRoute
from stitchwork.api.kserve.grpc_messages import POOL
from stitchwork.api.kserve.grpc_routes import MEDIA_TYPE, read_message
from stitchwork.api.limits import (
    GRPC_HEALTH,
    GRPC_REFLECTION,
    GRPC_REFLECTION_1,
    GRPC_SERVICE,
)
from stitchwork.api.routes import health
from stitchwork.errors import SlowRequestError, UnknownResourceError

SERVICES: Final = (GRPC_SERVICE, GRPC_HEALTH, GRPC_REFLECTION, GRPC_REFLECTION_1)
CHECK_SECONDS: Final = 2
"""Time in which the message of a health check must have arrived.

Anybody may send one, and the library receives messages whole, up to the limit on bodies: so this
bounds what callers without a key make the process hold to what the network brings meanwhile.
"""
STREAMS: Final = dict.fromkeys(
    f"/{service}/ServerReflectionInfo" for service in (GRPC_REFLECTION, GRPC_REFLECTION_1)
)
"""Methods of streams, which an error ends."""

router = APIRouter()
for file in (health_pb2, reflection_pb2):
    POOL.AddSerializedFile(file.DESCRIPTOR.serialized_pb)
# The library has only the earlier of the two protocols, which differ by their names alone.
earlier = text_format.MessageToString(
    FileDescriptorProto.FromString(reflection_pb2.DESCRIPTOR.serialized_pb)
)
POOL.Add(text_format.Parse(earlier.replace("v1alpha", "v1"), FileDescriptorProto()))
_reflection: Any = reflection.ReflectionServicer(SERVICES, POOL)


def routes() -> list[APIRoute]:
    """The routes of all methods."""
    return [route for route in router.routes if isinstance(route, APIRoute)]


async def check(request: Request) -> Response:
    """Whether the process can serve requests, by the same rules as `/health/ready`.

    All services of the process have the same state; no name means the whole process.

    Raises:
        SlowRequestError: If the message does not arrive in time.
        UnknownResourceError: If it names a service that the process does not have.
    """
    state = app_state(request)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            message = await read_message(request, state, health_pb2.HealthCheckRequest)
    except TimeoutError as error:
        raise SlowRequestError(
            f"expected a message HealthCheckRequest within {CHECK_SECONDS} seconds, got none"
        ) from error
    if message.service not in ("", *SERVICES):
        raise UnknownResourceError(
            f"expected one of the services {', '.join(SERVICES)}, or no name, "
            f"got {message.service!r}"
        )
    statuses = health_pb2.HealthCheckResponse
    is_ready = health.readiness(state).ready
    message = statuses(status=statuses.SERVING if is_ready else statuses.NOT_SERVING)
    return Response(message.SerializeToString(), media_type=MEDIA_TYPE)


async def reflect(request: Request) -> Response:
    """The description of services and messages, one request of a stream."""
    kind = reflection_pb2.ServerReflectionRequest
    message = await read_message(request, app_state(request), kind)
    response = next(_reflection.ServerReflectionInfo(iter((message,)), None))
    return Response(response.SerializeToString(), media_type=MEDIA_TYPE)


for path, endpoint in ((f"/{GRPC_HEALTH}/Check", check), *((path, reflect) for path in STREAMS)):
    router.add_api_route(
        path,
        endpoint,
        methods=["POST"],
        name=f"grpc_{path.rpartition('/')[2]}",
        response_model=None,
        include_in_schema=False,
        route_class_override=DirectRoute,
    )
