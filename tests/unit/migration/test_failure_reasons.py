"""Reasons of failures: what a report says has no values of rows."""

import psycopg
import pytest

from stitchwork.errors import ConflictError, InvalidInputError, StitchworkError, UnavailableError
from stitchwork.migration.block_results import error_table, read_result
from stitchwork.migration.failure_reasons import public_reason
from stitchwork.migration.postgresql_store import PostgresqlStore

VALUE = "patient-4711"
DETAIL = f"duplicate key value\nDETAIL:  Key (id)=({VALUE}) already exists."


def raised(error: StitchworkError, cause: Exception | None) -> StitchworkError:
    with pytest.raises(StitchworkError) as info:
        raise error from cause
    return info.value


def in_another_process(error: StitchworkError) -> StitchworkError:
    with pytest.raises(StitchworkError) as info:
        read_result(error_table(error))
    return info.value


def test_text_of_a_store_client_is_left_out() -> None:
    cause = psycopg.errors.UniqueViolation(DETAIL)
    translated = PostgresqlStore.client_error("store", cause)
    assert translated is not None
    error = raised(translated, cause)
    assert VALUE in str(error), "it is in the output of the command"
    expected = "UniqueViolation; its message is in the output of the command"
    assert public_reason(error) == expected
    assert public_reason(in_another_process(error)) == expected
    assert public_reason(in_another_process(in_another_process(error))) == expected
    assert public_reason(raised(ConflictError(VALUE), error)) == expected
    assert public_reason(ValueError(VALUE)).startswith("ValueError; ")


def test_message_of_this_package_is_reported() -> None:
    error = raised(ConflictError("the target exists"), None)
    assert public_reason(error) == "the target exists"
    assert public_reason(in_another_process(error)) == "the target exists"
    assert public_reason(raised(InvalidInputError("no map"), UnavailableError("down"))) == "no map"
