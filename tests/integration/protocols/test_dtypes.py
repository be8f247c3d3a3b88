"""Data types of encoders, from the declaration to the rows, on a running service."""

import numpy as np
import pytest

from stitchwork.client import Stitchwork
from stitchwork.errors import StitchworkError
from stitchwork.geometry.diagnostics.row_precision import MIN_COSINE, row_precision
from stitchwork.models.cpu_features import CPU_INFO, cpu_flags
from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.models.precision import cpu_dtypes
from tests.integration.protocols.conftest import TEXTS, World

SPEC = {"kind": "transformers", "model": str(minilm_folder())}


def test_auto_is_resolved_by_the_worker_and_recorded(world: World) -> None:
    dtypes = cpu_dtypes(cpu_flags(CPU_INFO))
    with Stitchwork(world.url) as client:
        plain = client.get("spaces", "minilm")
        assert (plain["dtype"], plain["precision"]) == ("float32", None)
        client.put_space("automatic", "texts", encoder={**SPEC, "dtype": "auto"})
        record = client.wait("spaces", "automatic")
        assert record["encoder"]["dtype"] == record["dtype"]
        assert record["dtype"] == ("bfloat16" if "bfloat16" in dtypes else "float32")
        assert record["version"] != plain["version"]
        rows, expected = (client.embed(space, TEXTS) for space in ("automatic", "minilm"))
        result = row_precision(rows, expected)
        assert result.min_cosine >= MIN_COSINE
        if record["dtype"] == "bfloat16":
            precision = record["precision"]
            assert (precision["dtype"], precision["rows"]) == ("bfloat16", len(TEXTS))
            assert MIN_COSINE <= precision["min_cosine"] < 1
            assert precision["same_nearest"] == 1
            assert not np.array_equal(rows, expected)
        again = client.put_space("automatic", "texts", encoder={**SPEC, "dtype": "auto"})
        assert client.wait("spaces", "automatic")["version"] == record["version"], again


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("int8", "got int8, which is not offered"),
        ("float64", "expected 'auto', 'float32', 'bfloat16' or 'float16'"),
    ],
)
def test_other_data_types_are_refused_by_name(world: World, dtype: str, message: str) -> None:
    with Stitchwork(world.url) as client, pytest.raises(StitchworkError) as raised:
        client.put_space("refused", "texts", encoder={**SPEC, "dtype": dtype})
    assert message in raised.value.message


def test_auto_with_anchors_of_the_caller_is_refused(world: World) -> None:
    with Stitchwork(world.url) as client:
        anchors = client.embed("minilm", TEXTS)
        with pytest.raises(StitchworkError, match="name the data type that they were computed in"):
            client.put_space("refused", "texts", anchors=anchors, encoder={**SPEC, "dtype": "auto"})
        client.put_space("sent", "texts", anchors=anchors, encoder=SPEC)
        assert client.wait("spaces", "sent")["dtype"] == "float32"


def test_data_type_that_no_worker_computes_in_is_refused_by_name(world: World) -> None:
    with Stitchwork(world.url) as client:
        anchors = client.embed("minilm", TEXTS)
        # A set without items: no worker compares the anchors before the space is ready.
        client.put_space("half", "no-items", anchors=anchors, encoder={**SPEC, "dtype": "float16"})
        if "float16" in cpu_dtypes(cpu_flags(CPU_INFO)):
            assert row_precision(client.embed("half", TEXTS), anchors).min_cosine >= MIN_COSINE
            return
        with pytest.raises(StitchworkError, match="in float16, as it is registered; those that"):
            client.embed("half", TEXTS[:1])
    response = world.http.get("/v2/models/embed:half/ready")
    assert response.status_code == 503
    assert "in float16, as it is registered" in response.json()["error"]
