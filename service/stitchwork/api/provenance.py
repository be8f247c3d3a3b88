"""Response headers that name the versions that a result was computed with."""

from urllib.parse import quote

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


def prompt_field(input_type: str | None, result: InferenceResult) -> dict[str, str | None]:
    """The field of a response that names the prompt, if the request has an input type."""
    return {} if input_type is None else {"prompt_name": result.prompt_name}


def result_headers(result: InferenceResult) -> dict[str, str]:
    """Headers of a result: versions, numbers of flawed inputs, too few anchors, and the prompt."""
    headers = resolution_headers(result.resolution)
    undefined = len(result.undefined)
    if undefined:
        headers["Stitchwork-Undefined"] = str(undefined)
    uncovered = len(result.coverage.uncovered)
    if uncovered:
        headers["Stitchwork-Uncovered"] = str(uncovered)
    if result.lengths.mismatched:
        headers["Stitchwork-Mismatched-Lengths"] = str(result.lengths.mismatched)
    few_anchors = result.resolution.few_anchors
    if few_anchors is not None:
        headers["Stitchwork-Few-Anchors"] = str(few_anchors)
    if result.truncated:
        headers["Stitchwork-Truncated"] = str(len(result.truncated))
    if result.prompt_name is not None:
        headers["Stitchwork-Prompt"] = quote(result.prompt_name)
    return headers
