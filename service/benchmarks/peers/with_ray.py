"""`PYTHON with_ray.py PORT MODEL ARRAYS`: `POST /stitch` on Ray Serve, one replica."""

import sys
from pathlib import Path
from typing import Any

import ray
from pipeline import BATCH, WAIT_SECONDS, Pipeline, forever
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Stitch:
    """The framework forms batches, and `Pipeline` predicts them."""

    def __init__(self, model: str, arrays: str) -> None:
        self.pipeline = Pipeline(model, arrays)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def predict(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """Predictions of a batch of requests."""
        return self.pipeline.predict_requests(requests)

    async def __call__(self, request: Request) -> list[dict[str, Any]]:
        """Predictions of one request, a JSON list of texts."""
        predictions: list[dict[str, Any]] = await self.predict(await request.json())
        return predictions


if __name__ == "__main__":
    # The replicas import modules of this folder.
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": path})
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Stitch.bind(*sys.argv[2:4]), route_prefix="/stitch")
    forever()
