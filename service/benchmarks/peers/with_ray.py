"""`PYTHON with_ray.py PORT MODEL STITCH`: `POST /stitch` on Ray Serve, one replica."""

import sys
from pathlib import Path
from typing import Any

import ray
from pipeline import BATCH, WAIT_SECONDS, Pipeline, forever
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=256)
class Stitch:
    """Batches form in the framework; see `Pipeline` for what is done with them."""

    def __init__(self, model: str, stitch: str) -> None:
        self.pipeline = Pipeline(model, stitch)

    @serve.batch(max_batch_size=BATCH, batch_wait_timeout_s=WAIT_SECONDS)
    async def answer(self, requests: list[list[str]]) -> list[list[dict[str, Any]]]:
        """A batch of requests."""
        return self.pipeline.together(requests)

    async def __call__(self, request: Request) -> list[dict[str, Any]]:
        """A request is a JSON list of texts."""
        found: list[dict[str, Any]] = await self.answer(await request.json())
        return found


if __name__ == "__main__":
    # Its replicas import what stands beside this file.
    path = {"PYTHONPATH": str(Path(__file__).parent)}
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": path})
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Stitch.bind(*sys.argv[2:4]), route_prefix="/stitch")
    forever()
