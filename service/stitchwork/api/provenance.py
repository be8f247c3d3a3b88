"""Response headers that name the versions that a result was computed with."""

from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Head, Space


def version_headers(stale: bool, **records: Space | Head) -> dict[str, str]:
    """Headers with the versions of records by role; they suit bodies of any media type.

    Args:
        stale: Whether these are only the last known versions.
        records: Spaces and heads by their role: `source`, `target`, `head`.
    """
    headers = {f"Stitchwork-{role.title()}": f"{r.id}@{r.version}" for role, r in records.items()}
    return {**headers, "Stitchwork-Stale": "true"} if stale else headers


def resolution_headers(resolution: Resolution) -> dict[str, str]:
    """Headers with the versions of a resolution."""
    return version_headers(resolution.stale, **resolution.records)


def result_headers(result: InferenceResult) -> dict[str, str]:
    """Headers of a result: versions, and numbers of inputs with a flaw of each kind."""
    headers = resolution_headers(result.resolution)
    undefined = len(result.undefined)
    if undefined:
        headers["Stitchwork-Undefined"] = str(undefined)
    uncovered = len(result.coverage.uncovered)
    if uncovered:
        headers["Stitchwork-Uncovered"] = str(uncovered)
    if result.mismatched:
        headers["Stitchwork-Mismatched-Lengths"] = str(result.mismatched)
    if result.truncated:
        headers["Stitchwork-Truncated"] = str(len(result.truncated))
    return headers
