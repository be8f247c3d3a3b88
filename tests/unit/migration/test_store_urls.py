"""URLs of stores whose passwords have characters that are not escaped."""

import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.migration.stores import open_store


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:se/cret@127.0.0.1/0?index=docs",
        "redis://me:12/cret@127.0.0.1/0?index=docs",
        "redis://me:12?cret@127.0.0.1/0?index=docs",
        "redis://me:cret#1@127.0.0.1/0?index=docs",
    ],
)
def test_url_whose_password_is_not_escaped_is_refused_without_it(url: str) -> None:
    with pytest.raises(InvalidInputError, match="in its password, write %2F for /") as refusal:
        open_store(url)
    assert "12" not in str(refusal.value).replace("127.0.0.1", "")
    assert "cret" not in str(refusal.value)


def test_url_with_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="expected a URL with a host and a port"):
        open_store("redis://127.0.0.1:port?index=docs")


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:se%2Fcret@127.0.0.1:6379/0?index=docs",
        "redis://me:se@cret@127.0.0.1?index=docs",
        "redis://[::1]:6379?index=a:b@c",
    ],
)
def test_url_with_an_escaped_password_is_opened(url: str) -> None:
    with open_store(url) as store:
        assert "cret" not in store.name
