"""`PYTHON with_litserve.py PORT MODEL ARRAYS [DTYPE]`: `POST /stitch` on LitServe, one worker."""

import sys
from typing import Any

import litserve
from pipeline import BATCH, WAIT_SECONDS, Pipeline


class Stitch(litserve.LitAPI):
    """The framework forms batches, and `Pipeline` predicts them."""

    def setup(self, device: str) -> None:
        """Load the pipeline."""
        self.pipeline = Pipeline(*sys.argv[2:5])

    def decode_request(self, request: list[str]) -> list[str]:
        """Return the request, a JSON list of texts."""
        return request

    def predict(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """Predictions of a batch of requests."""
        return self.pipeline.predict_requests(requests)

    def encode_response(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the response, a JSON list of labels with scores."""
        return output


if __name__ == "__main__":
    api = Stitch(api_path="/stitch", max_batch_size=BATCH, batch_timeout=WAIT_SECONDS)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), log_level="error", generate_client_file=False
    )
