"""What a failure says of its cause."""

import pytest

from stitchwork.errors import ErrorCode, InvalidInputError, JobFailedError
from stitchwork.worker.failure_causes import describe, log_fields


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (
            ModuleNotFoundError("No module named 'sklearn'"),
            "ModuleNotFoundError: No module named 'sklearn'",
        ),
        (ImportError("libcudart.so: cannot open"), "ImportError: libcudart.so: cannot open"),
        (ValueError("bad text: a secret"), "ValueError"),
    ],
)
def test_cause_names_a_module_and_repeats_no_input(error: Exception, cause: str) -> None:
    assert describe(error) == cause


def test_log_has_the_reason_of_a_model_that_cannot_be_loaded() -> None:
    failure = JobFailedError("m cannot be loaded: no file", code=ErrorCode.LOAD_FAILED)
    assert log_fields(failure) == {"code": "load-failed", "reason": failure.message}
    assert log_fields(InvalidInputError("item 3: a secret")).keys() == {"code"}
