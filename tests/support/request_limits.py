"""Limits of requests for tests of parsers."""

from typing import Final

from stitchwork.api.limits import RequestLimits

LIMITS: Final = RequestLimits(
    max_body_bytes=1 << 20,
    max_rows=64,
    max_items=16,
    max_anchors=64,
    max_width=64,
    items_per_job=8,
    max_json_values=1 << 20,
    max_json_depth=64,
    max_head_layers=64,
    max_fit_scores=64 * 1024 * 1024,
    max_inflight_body_bytes=1 << 20,
    max_header_bytes=1 << 16,
    max_connections=8,
    request_timeout_seconds=5.0,
    header_timeout_seconds=5.0,
    min_bytes_per_second=1,
)
