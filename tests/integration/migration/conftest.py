"""A PostgreSQL server that the tests of a process share."""

from collections.abc import Iterator

import pytest

from tests.support.postgresql import postgresql_server


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The URL of a server."""
    with postgresql_server() as url:
        yield url
