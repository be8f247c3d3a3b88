"""Limits of one request and one connection."""

import re
from dataclasses import dataclass
from typing import Final

GRPC_SERVICE: Final = "inference.GRPCInferenceService"
"""The service of the Open Inference Protocol; a method's path is below it."""
GRPC_HEALTH: Final = "grpc.health.v1.Health"
GRPC_REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"
GRPC_REFLECTION_1: Final = "grpc.reflection.v1.ServerReflection"
"""The same messages under the name that they have since."""
COMPRESSED_PATHS: Final = re.compile(r"(.*)/v2/models/.+/infer", re.DOTALL)
"""Paths that accept compressed bodies, as clients of their protocol send them on request."""
HEALTH_PATHS: Final = frozenset(
    (
        "/health",
        "/health/live",
        "/health/ready",
        "/v2/health/live",
        "/v2/health/ready",
        f"/{GRPC_SERVICE}/ServerLive",
        f"/{GRPC_SERVICE}/ServerReady",
        f"/{GRPC_HEALTH}/Check",
    )
)
"""Health checks: served above the limit on connections, and logged at debug level only."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold, and how long it may take.

    Each attribute has the name and the unit of the setting that it comes from.
    """

    max_body_bytes: int
    max_rows: int
    max_items: int
    max_anchors: int
    max_width: int
    items_per_job: int
    max_json_values: int
    max_json_depth: int
    max_head_layers: int
    max_fit_scores: int
    max_inflight_body_bytes: int
    max_header_bytes: int
    max_connections: int
    request_timeout_seconds: float
    header_timeout_seconds: float
    min_bytes_per_second: int
