"""The snapshot of the OpenAPI document; `python -m tests.support.openapi_document` updates it."""

import json
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.running_service import running

SNAPSHOT: Final = Path(__file__).parent / "openapi.json"


def served(url: str) -> dict[str, Any]:
    """The OpenAPI document of a running service."""
    response = httpx.get(f"{url}/openapi.json", timeout=30).raise_for_status()
    document: dict[str, Any] = response.json()
    return document


def main() -> None:
    """Write the snapshot of this checkout."""
    with running(workers=0) as service:
        document = served(service.url)
    SNAPSHOT.write_text(json.dumps(document, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
