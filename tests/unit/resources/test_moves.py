"""Records of moves: what of a report is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from stitchwork.addresses import without_password
from stitchwork.resources.moves import MAX_REASONS, MoveReport
from tests.support.move_reports import REPORT, VERSIONS


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("postgresql://me:secret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("postgresql://me:se@cret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("postgresql://me:se?cret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("postgresql://me:se/cret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("postgresql://me:12?secret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("postgresql://me:12/secret@host/db?table=t", "postgresql://me@host/db?table=t"),
        ("redis://me:se?c=ret@host/0", "redis://me@host/0"),
        ("qdrant:http://me:secret@host:6333/a", "qdrant:http://me@host:6333/a"),
        ("postgresql://h1:1,h2:2/db?table=a@b", "postgresql://h1:1,h2:2/db?table=a@b"),
        ("redis://host:6379/0?index=a:b@c", "redis://host:6379/0?index=a:b@c"),
        ("postgresql://host/db?password=secret&table=t", "postgresql://host/db?table=t"),
        ("postgresql://host/db?table=t&sslpassword=secret", "postgresql://host/db?table=t"),
        ("qdrant:http://host:6333?api_key=secret", "qdrant:http://host:6333"),
        ("qdrant:http://host:6333?collection=a@b", "qdrant:http://host:6333?collection=a@b"),
        ("qdrant:http://host:6333/a@b?collection=c", "qdrant:http://host:6333/a@b?collection=c"),
        ("folder/what?.parquet", "folder/what?.parquet"),
    ],
)
def test_url_without_password_names_the_same_store(url: str, public: str) -> None:
    assert without_password(url) == public
    assert without_password(public) == public


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "postgresql://me:secret@host/db?table=t"}, "without its password"),
        ({"target": "postgresql://host/db?password=secret"}, "without its password"),
        ({"target": "x" * 501}, "at most 500 characters"),
        ({"status": "done"}, "'running', 'finished', 'failed' or 'interrupted'"),
        ({"rows": -1}, "greater than or equal to 0"),
        ({"rows": 1.5}, "valid integer"),
        ({"rows_per_second": float("nan")}, "finite number"),
        ({"shard": "1 of 2"}, "match pattern"),
        ({"reasons": {str(i): 1 for i in range(MAX_REASONS + 1)}}, f"at most {MAX_REASONS} items"),
        ({"warnings": ["x"] * 11}, "at most 10 items"),
        ({"versions": {**VERSIONS, "source": "a b"}}, "match pattern"),
        ({"more": 1}, "Extra inputs are not permitted"),
    ],
)
def test_report_of_other_fields_is_refused(fields: dict[str, Any], message: str) -> None:
    assert MoveReport(**REPORT).engine == "local"
    with pytest.raises(ValidationError, match=message) as refusal:
        MoveReport(**REPORT | fields)
    assert "secret" not in str([error["msg"] for error in refusal.value.errors()])
