"""Lines of logs: JSON that names whom it was written for."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr
from io import StringIO

import pytest

from stitchwork.telemetry import logs

TRACES = ("a" * 32, "b" * 32)
CODE = f"""
import logging
from stitchwork.telemetry import Caller, bind_callers
from stitchwork.telemetry.logs import configure

configure("info")
log = logging.getLogger("stitchwork.here")
one = Caller("r1", "00-{TRACES[0]}-{"c" * 16}-01")
other = Caller("r2", "00-{TRACES[1]}-{"c" * 16}-01")
log.info("nobody")
with bind_callers(one):
    log.info("one", extra={{"color_message": "no"}})
    with bind_callers(one, other, one, Caller()):
        log.info("both")
    log.debug("too fine")
logging.getLogger("urllib3").info("noise")
"""


def test_lines_name_whom_they_are_written_for() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line.pop("message") for line in lines] == ["nobody", "one", "both"]
    for line in lines:
        assert (line.pop("level"), line.pop("logger")) == ("INFO", "stitchwork.here")
        assert line.pop("timestamp")
    assert lines == [
        {},
        {"request_id": "r1", "trace_id": TRACES[0]},
        {"request_ids": ["r1", "r2"], "trace_ids": list(TRACES)},
    ]


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, as it was before at the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_record_after_standard_error_was_replaced_goes_to_the_new_one(
    root_logger: logging.Logger,
) -> None:
    """As of a worker's thread, once a test that ran a command has ended."""
    with redirect_stderr(StringIO()) as captured:
        logs.configure("info")
        root_logger.info("first")
        first = captured.getvalue()
    captured.close()
    with redirect_stderr(StringIO()) as current:
        root_logger.info("second")
    messages = [json.loads(text)["message"] for text in (first, current.getvalue())]
    assert messages == ["first", "second"]
