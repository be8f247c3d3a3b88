"""The limit on file descriptors, in processes of their own."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from stitchwork.processes.descriptors import raise_descriptor_limit
soft, hard, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
raise_descriptor_limit(count)
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "count", "expected", "is_limited"),
    [
        (100, 300, 200, 200, False),
        (200, 300, 100, 200, False),
        (100, 300, 301, 300, True),
        (300, 300, 400, 300, True),
    ],
)
def test_soft_limit_is_raised_as_far_as_the_hard_one_allows(
    soft: int, hard: int, count: int, expected: int, is_limited: bool
) -> None:
    arguments = [str(number) for number in (soft, hard, count)]
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == [str(expected), str(hard)]
    assert ("file descriptors limited" in result.stderr) == is_limited
