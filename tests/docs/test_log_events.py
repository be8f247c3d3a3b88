"""The page of log events lists exactly the events that the package logs, with their levels."""

import ast
import re
from collections import defaultdict
from typing import Final

from tests.support.code_blocks import ROOT

PAGE: Final = ROOT / "docs" / "operations" / "log-events.md"
PACKAGE: Final = ROOT / "service" / "stitchwork"
ROW: Final = re.compile(r"^\| `([^`]+)` \| ([a-z, ]+) \|", re.MULTILINE)
LEVELS: Final = frozenset({"debug", "info", "warning", "error", "exception", "critical"})


def logged_events() -> dict[str, set[str]]:
    """The levels of each event; `log.log` with a variable level counts as debug and info.

    An event that is not a constant has the name of its file instead.
    """
    events = defaultdict[str, set[str]](set)
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr=level), args=arguments
                ) if level in LEVELS:
                    is_constant = len(arguments) == 1 and isinstance(arguments[0], ast.Constant)
                    event = ast.literal_eval(arguments[0]) if is_constant else path.name
                    events[event].add("error" if level == "exception" else level)
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="log"), attr="log"),
                    args=[_, ast.Constant(value=str(event))],
                ):
                    events[event] |= {"debug", "info"}
    return dict(events)


def test_the_page_lists_every_log_event_with_its_levels() -> None:
    listed = {event: set(levels.split(", ")) for event, levels in ROW.findall(PAGE.read_text())}
    assert listed == logged_events()
