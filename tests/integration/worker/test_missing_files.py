"""A worker whose files of a registered encoder are missing or cut short."""

from pathlib import Path

import pytest

from stitchwork.errors import JobFailedError
from stitchwork.inference.inverse_cache import InverseCache
from stitchwork.inference.translator import ClassifierCache, Translator
from stitchwork.models.encoder_cache import EncoderCache
from stitchwork.queue.consumer import Consumer
from stitchwork.queue.deliveries import Delivery
from stitchwork.queue.messages import Job
from stitchwork.queue.shards import QueueShard
from stitchwork.registry.registry import Registry
from stitchwork.resources import EncoderSpec, ImageEncoder, TextEncoder, VisionEncoder
from stitchwork.telemetry import Metrics, Telemetry
from stitchwork.worker.batch_runner import BatchRunner
from stitchwork.worker.encoder_check import EncoderChecker


@pytest.mark.parametrize("kind", ["timm", "transformers", "transformers-vision"])
@pytest.mark.parametrize("fault", ["missing", "cut short", "outside the roots"])
def test_files_that_a_worker_lacks_are_no_fault_of_a_request_for_a_registered_space(
    registry: Registry, queue_server: QueueShard, tmp_path: Path, kind: str, fault: str
) -> None:
    roots = tmp_path / "roots"
    folder = (tmp_path if fault.startswith("outside") else roots) / "model"
    if fault == "cut short":
        folder.mkdir(parents=True)
        (folder / "config.json").write_text('{"model_type": "bert"}')
        (folder / "model.safetensors").write_bytes(b"\x40\0\0\0\0\0\0\0{")
    spec: EncoderSpec = TextEncoder(model=str(folder))
    if kind == "timm":
        spec = ImageEncoder(model="resnet18", weights=str(folder / "model.safetensors"))
    elif kind == "transformers-vision":
        spec = VisionEncoder(model=str(folder))
    encoders = EncoderCache("cpu", (roots,), offline=True)
    inverses = InverseCache(queue_server, 1)
    runner = BatchRunner(
        Consumer((queue_server,), "w", items_per_batch=1).leases,
        encoders.get,
        encoders,
        EncoderChecker(registry),
        Translator(registry, inverses, 1 << 20),
        ClassifierCache(registry),
        items_per_batch=1,
        telemetry=Telemetry(Metrics()),
    )
    delivery = Delivery("stream", "0-1", Job(id="j", encoder=spec), ["an input"])
    try:
        with pytest.raises(JobFailedError, match=r"cannot be loaded|has no tokenizer") as raised:
            runner.run([delivery], lambda *answers: None)
    finally:
        runner.close()
        inverses.close()
    code = "path-not-allowed" if fault.startswith("outside") else "load-failed"
    assert raised.value.code == code
