"""Lines of logs: JSON that names whom it was written for."""

import json
import subprocess
import sys

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
