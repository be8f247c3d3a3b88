"""What the first release with the present formats packed and stored is read, and packed alike.

`data/make_formats.py` wrote the file with that release. After a change of the format of messages it
is made anew with the first release that has it; earlier formats of records must still be read.
"""

import base64
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson
import pytest

from stitchwork.errors import InvalidInputError
from stitchwork.queue.messages import Job, Reply, unpack_job, unpack_reply
from stitchwork.queue.worker_registry import WorkerStatus, parse_statuses
from stitchwork.redis.serialization import unpack_frames
from stitchwork.registry.stored_records import dump_record, load_record
from stitchwork.resources import AnchorSet, Head, Record, Registration, Space

DATA: Final = Path(__file__).parent / "data"
STORED: Final[dict[str, Any]] = json.loads((DATA / "formats_8_7.json").read_text())
EARLIER: Final[dict[str, Any]] = json.loads((DATA / "formats_6_6.json").read_text())
MODELS: Final[dict[str, type[Any]]] = {
    model.__name__: model for model in (AnchorSet, Space, Head, Registration)
}


def job_of(entry: dict[str, Any]) -> tuple[Job, list[str | bytes], bytes]:
    """A stored job, its inputs, and the bytes that it was packed to."""
    job = Job.model_validate(entry["fields"])
    is_text = job.encoder is None or job.encoder.modality == "text"
    items = [item if is_text else base64.b64decode(item) for item in entry["items"]]
    return job, items, base64.b64decode(entry["bytes"])


def contents(data: bytes) -> list[Any]:
    """The frames of a job: two of JSON, then its inputs."""
    header, shared, *items = unpack_frames(data)
    return [orjson.loads(header), orjson.loads(shared), *items]


@pytest.mark.parametrize("entry", STORED["jobs"], ids=lambda entry: str(entry["fields"]["id"]))
def test_job_is_read_and_packed_as_by_the_first_release_of_its_format(
    entry: dict[str, Any],
) -> None:
    job, items, data = job_of(entry)
    assert unpack_job(data) == (job, items)
    # Its workers refuse fields that they do not know.
    assert contents(job.pack(items)) == contents(data)


def test_replies_are_read_and_packed_as_by_the_first_release_of_their_format() -> None:
    answer, refusal, tokens = (base64.b64decode(entry) for entry in STORED["replies"])
    reply = unpack_reply(answer)
    assert (reply.job, reply.truncated, reply.tokens, reply.prompt_name) == ("1", (1,), 7, "query")
    np.testing.assert_array_equal(reply.rows, np.ones((2, 3)))
    np.testing.assert_array_equal(reply.defined, [True, False])
    np.testing.assert_array_equal(reply.covered, [True, True])
    np.testing.assert_array_equal(reply.lengths, [1.0, 2.0])
    assert unpack_frames(reply.pack())[1:] == unpack_frames(answer)[1:]
    error = unpack_reply(refusal).error
    assert isinstance(error, InvalidInputError)
    assert (error.message, error.pointer) == ("expected a text", "/items/0")
    content = unpack_reply(tokens)
    assert content.content == b'["a text"]'
    assert unpack_frames(content.pack())[1:] == unpack_frames(tokens)[1:]
    for data, again in (
        (answer, reply),
        (refusal, Reply("2", error=error)),
        (tokens, content),
    ):
        header = orjson.loads(unpack_frames(data)[0])
        assert orjson.loads(unpack_frames(again.pack())[0]) == header


def test_worker_is_counted_and_announces_itself_as_by_that_release() -> None:
    (status,) = parse_statuses([orjson.dumps(STORED["status"])])
    assert status.refused == {"x": "other files"}
    # An API process of that release leaves out workers with fields that it does not know.
    assert json.loads(WorkerStatus(**STORED["status"]).model_dump_json()) == STORED["status"]


def includes(fields: Any, expected: Any) -> bool:
    """Whether fields are the expected ones, and others that came later."""
    if isinstance(expected, dict):
        names = expected.keys()
        return names <= fields.keys() and all(includes(fields[n], expected[n]) for n in names)
    return bool(fields == expected)


@pytest.mark.parametrize(
    "entry", [*STORED["records"], *EARLIER["records"]], ids=lambda entry: str(entry["kind"])
)
def test_record_of_that_release_or_an_earlier_one_is_read(entry: dict[str, Any]) -> None:
    model = MODELS[entry["kind"]]
    record: Record = load_record(model, entry["bytes"].encode(), "it")
    fields = record.model_dump(mode="json")
    assert includes(fields, entry["fields"])
    assert load_record(model, dump_record(record), "it") == record
