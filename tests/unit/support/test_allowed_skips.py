"""Skips that the list does not name fail a run in continuous integration."""

from pathlib import Path

import pytest

from tests.support import allowed_skips, naming
from tests.support.allowed_skips import Rule, SkipPolicy

RULES = [Rule.parse("tests/a.py::*[redis-7.0*: has no WAITAOF")]


def skip(nodeid: str, reason: str) -> pytest.TestReport:
    """The report of a skipped test."""
    where = ("a.py", 1, f"Skipped: {reason}")
    return pytest.TestReport(nodeid, ("a.py", 1, ""), {}, "skipped", where, "setup")


@pytest.mark.parametrize(
    ("nodeid", "reason", "allowed"),
    [
        ("tests/a.py::test_x[redis-7.0]", "Redis 7.0 has no WAITAOF", True),
        ("tests/a.py::test_x[redis-7.0-zero]", "Redis 7.0 has no WAITAOF", True),
        ("tests/a.py::test_x[redis-7.0]", "redis-server is not installed", False),
        ("tests/a.py::test_x[valkey-9]", "Redis 7.0 has no WAITAOF", False),
        ("tests/b.py::test_x[redis-7.0]", "Redis 7.0 has no WAITAOF", False),
    ],
)
def test_skip_is_allowed_by_its_id_and_reason(nodeid: str, reason: str, allowed: bool) -> None:
    policy = SkipPolicy(RULES)
    policy.pytest_runtest_logreport(skip(nodeid, reason))
    assert policy.violations == ([] if allowed else [f"{nodeid}: Skipped: {reason}"])


def test_expected_failure_is_no_skip() -> None:
    report = skip("tests/b.py::test_x", "a known bug")
    report.wasxfail = "a known bug"
    policy = SkipPolicy(RULES)
    policy.pytest_runtest_logreport(report)
    assert policy.violations == []


@pytest.mark.parametrize("line", ["tests/a.py::*", "tests/a.py::*: "])
def test_rule_without_a_reason_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="expected `glob: reason`"):
        Rule.parse(line)


def test_list_in_the_repository_is_valid(tmp_path: Path) -> None:
    rules = allowed_skips.read_rules(naming.ROOT / allowed_skips.ALLOWED)
    assert rules
    (tmp_path / "list").write_text("# a comment\n\ntests/a.py::*[redis-7.0*: has no WAITAOF\n")
    assert allowed_skips.read_rules(tmp_path / "list") == RULES
