"""The OpenAPI document is the contract: it changes only where somebody means it to."""

import json

from tests.support.openapi_document import SNAPSHOT, served


def test_the_document_is_the_one_in_the_repository(url: str) -> None:
    kept, came = json.loads(SNAPSHOT.read_text()), served(url)
    changed = sorted(
        path
        for path in kept["paths"].keys() | came["paths"].keys()
        if kept["paths"].get(path) != came["paths"].get(path)
    )
    # A flag, not the two documents: pytest would print their difference, which nobody reads.
    same = kept == came
    assert same, (
        "tests/support/openapi.json differs from what is served (paths: "
        f"{changed or 'none, but the rest'}"
        "); if that is meant, `python -m tests.support.openapi_document` writes it anew, "
        "and git shows what changed"
    )
