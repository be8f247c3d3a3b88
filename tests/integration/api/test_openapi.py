"""The OpenAPI document changes only on purpose."""

import json

from tests.support.openapi_document import SNAPSHOT, served


def test_openapi_document_equals_the_snapshot(url: str) -> None:
    snapshot, document = json.loads(SNAPSHOT.read_text()), served(url)
    changed = sorted(
        path
        for path in snapshot["paths"].keys() | document["paths"].keys()
        if snapshot["paths"].get(path) != document["paths"].get(path)
    )
    # A flag, because pytest would print the difference of two long documents.
    same = snapshot == document
    assert same, (
        "tests/support/openapi.json differs from what is served (paths: "
        f"{changed or 'none, but the rest'}"
        "); if that is meant, `python -m tests.support.openapi_document` writes it anew, "
        "and git shows what changed"
    )
