"""A parser of bodies for tests without a service."""

from typing import Final

from stitchwork.api.content.body_parser import BodyParser
from stitchwork.api.executors import ProcessExecutor, row_threads
from tests.support.request_limits import LIMITS

BODY_PARSER: Final = BodyParser(LIMITS, ProcessExecutor(), row_threads())
