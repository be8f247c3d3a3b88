"""The OpenAPI document as it stands in the repository, and how it is written anew.

python -m tests.support.openapi_document
"""

import json
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.running_service import running

SNAPSHOT: Final = Path(__file__).parent / "openapi.json"


def served(url: str) -> dict[str, Any]:
    """What a running service says of itself."""
    told: dict[str, Any] = httpx.get(f"{url}/openapi.json", timeout=30).raise_for_status().json()
    return told


def main() -> None:
    """Write the snapshot of this checkout."""
    with running(workers=0) as found:
        told = served(found.url)
    SNAPSHOT.write_text(json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
