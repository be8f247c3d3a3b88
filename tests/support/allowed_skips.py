"""A skip is an error in continuous integration, unless `.ci/allowed-skips` names it."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple, Self

import pytest

ALLOWED: str = ".ci/allowed-skips"


class Rule(NamedTuple):
    """One line of the list.

    Attributes:
        pattern: A glob for ids of tests.
        reason: Part of the reason of the skip.
    """

    pattern: str
    reason: str

    @classmethod
    def parse(cls, line: str) -> Self:
        """A rule of `glob: reason`.

        Raises:
            ValueError: If the line has no reason.
        """
        pattern, separator, reason = line.partition(": ")
        if not separator or not reason.strip():
            raise ValueError(f"{ALLOWED}: expected `glob: reason`, got {line!r}")
        return cls(pattern.strip(), reason.strip())

    def allows(self, nodeid: str, reason: str) -> bool:
        """Whether this rule is about that skip."""
        # fnmatch would take the brackets of parametrized ids for sets of characters.
        return fnmatchcase(nodeid, self.pattern.replace("[", "[[]")) and self.reason in reason


def read_rules(path: Path) -> list[Rule]:
    """The rules of a file; blank lines and comments are skipped."""
    lines = (line.strip() for line in path.read_text().splitlines())
    return [Rule.parse(line) for line in lines if line and not line.startswith("#")]


class SkipPolicy:
    """A pytest plugin that fails a run with skips that no rule allows."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self.violations: list[str] = []

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that is skipped as a whole."""
        self._check(report)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test or one of its fixtures; expected failures are no skips."""
        if not hasattr(report, "wasxfail"):
            self._check(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail an otherwise successful run."""
        if self.violations and session.exitstatus in (
            pytest.ExitCode.OK,
            pytest.ExitCode.NO_TESTS_COLLECTED,
        ):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """List the violations."""
        if self.violations:
            terminalreporter.section(f"skips that {ALLOWED} does not name", red=True)
            for violation in self.violations:
                terminalreporter.write_line(violation)

    def _check(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if not report.skipped:
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(rule.allows(report.nodeid, reason) for rule in self._rules):
            self.violations.append(f"{report.nodeid}: {reason}")
