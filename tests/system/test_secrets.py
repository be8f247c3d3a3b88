"""No inputs are logged, at any level, and no response has a stack trace."""

import httpx
import pytest

from stitchwork.models.packaged_encoders import minilm_folder
from tests.support import machine
from tests.support.running_service import running
from tests.support.waiting import wait_until

pytestmark = pytest.mark.models

KEY = "sw-abrakadabra-simsalabim"
WORD = "quijibo"
LABEL = "kwyjibo"
NUMBER = 0.4711815


def test_debug_logs_have_no_text_no_vector_no_label_and_no_key(
    capfd: pytest.CaptureFixture[str],
) -> None:
    texts = [f"{WORD} {word}" for word in ("one", "two", "three", "four", "five")]
    rows = [[NUMBER * (i + j * j) for j in range(4)] for i in range(1, 6)]
    encoder = {"kind": "transformers", "model": str(minilm_folder())}
    with (
        running(roots=(minilm_folder(),), STITCHWORK_LOG_LEVEL="debug") as service,
        httpx.Client(
            base_url=service.url,
            timeout=machine.deadline(120),
            headers={"Authorization": f"Bearer {KEY}", "X-Api-Key": KEY},
        ) as http,
    ):
        responses = [
            http.put("/anchor-sets/t", json={"modality": "text", "items": texts}),
            http.put("/spaces/m", json={"anchor_set": "t", "encoder": encoder}),
            http.put("/spaces/v", json={"anchor_set": "t", "anchors": rows}),
        ]

        def ready() -> bool:
            return str(http.get("/spaces/m").json()["status"]) == "ready"

        wait_until("the space is ready", ready, 120)
        head = {"space": "v", "weight": [[NUMBER] * 4] * 2, "labels": [LABEL, "b"]}
        responses += [
            http.put("/heads/h", json=head),
            http.post("/stitch/m/h", json={"items": texts}),
            http.post("/embed/m", json={"items": texts, "target": "v"}),
            http.post("/translate", json={"source": "v", "target": "m", "embeddings": rows}),
        ]
        assert all(response.is_success for response in responses), [a.text for a in responses]
        refused = [
            http.post("/embed/m", json={"items": [f"{WORD} " * 2000]}),
            http.post("/embed/m", content=f'{{"items": ["{WORD}'.encode()),
            http.post("/translate", json={"source": "v", "target": "m", "embeddings": [[NUMBER]]}),
            http.put("/spaces/w", content=b"\x93NUMPY" + WORD.encode()),
            http.get(f"/spaces/{WORD}"),
        ]
        assert all(response.is_client_error for response in refused), [a.text for a in refused]
        for response in refused:
            assert "Traceback" not in response.text
            assert 'File "' not in response.text
    logs = "".join(capfd.readouterr())
    assert "/stitch/{encoder}/{head}" in logs, "nothing was logged"
    for secret in (KEY, WORD, LABEL, str(NUMBER)[2:]):
        lines = [line for line in logs.splitlines() if secret in line]
        assert not lines, lines
