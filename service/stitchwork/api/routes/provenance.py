"""What responses say about the versions that they come from."""

from stitchwork.inference.resolve import Resolution
from stitchwork.inference.stitch import InferenceResult
from stitchwork.resources import Head, Space


def version_headers(stale: bool, **records: Space | Head) -> dict[str, str]:
    """Headers that name the versions of a response, whatever the format of its body."""
    headers = {f"Stitchwork-{role.title()}": f"{r.id}@{r.version}" for role, r in records.items()}
    return {**headers, "Stitchwork-Stale": "true"} if stale else headers


def resolution_headers(resolution: Resolution) -> dict[str, str]:
    """Headers that name the versions of a resolution."""
    return version_headers(resolution.stale, **resolution.records)


def result_headers(result: InferenceResult) -> dict[str, str]:
    """Headers of a result: its versions, and how many inputs are uncovered or truncated."""
    headers = resolution_headers(result.resolution)
    uncovered = len(result.coverage.uncovered)
    if uncovered:
        headers["Stitchwork-Uncovered"] = str(uncovered)
    if result.truncated:
        headers["Stitchwork-Truncated"] = str(len(result.truncated))
    return headers
