"""Work on the inputs of a job is no hang, however long all of them take together."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from stitchwork.models.image_files import prepare_images
from stitchwork.models.text_cutting import MAX_CHARACTERS, TextCutter
from stitchwork.queue import leases as leases_module
from stitchwork.queue.leases import Leases
from stitchwork.queue.shards import QueueShard
from tests.support.images import file

HANG = 20.0
STEP = 15.0
"""Seconds that an input takes: less than `HANG`, and two of them more."""
COUNT = 64


class SlowWork:
    """Leases on one job, and a clock that each input moves on.

    Attributes:
        leases: The leases.
        overdue: Whether the job counted as hanging after each step.
    """

    def __init__(self) -> None:
        shard = QueueShard("redis://localhost:1", 1.0)
        self.now = 0.0
        self.leases = Leases((shard,), "w", lease=10.0, hang=HANG, on_hang=lambda: None)
        self.overdue = list[bool]()

    def begin(self) -> None:
        """Take a job."""
        self.leases.add([(0, "stream", "1-0")])

    def step(self) -> None:
        """Work on an input."""
        self.now += STEP
        self.overdue.append(self.leases.is_overdue)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> SlowWork:
    work = SlowWork()
    monkeypatch.setattr(leases_module, "time", SimpleNamespace(monotonic=lambda: work.now))
    work.begin()
    return work


def prepare(work: SlowWork, progress: Callable[[], None]) -> None:
    """Decode images, each of which takes long."""

    def transform(image: Image.Image) -> torch.Tensor:
        work.step()
        return torch.zeros(1)

    image = file(Image.new("RGB", (8, 8)), "WEBP")
    prepare_images([image] * COUNT, transform, 64, torch.device("cpu"), progress)


def test_job_of_many_slow_images_is_no_hang(work: SlowWork) -> None:
    prepare(work, work.leases.progress)
    assert work.overdue == [False] * COUNT


def test_job_without_reports_of_progress_hangs(work: SlowWork) -> None:
    prepare(work, lambda: None)
    assert work.overdue == [False] + [True] * (COUNT - 1)


def test_job_of_many_long_texts_is_no_hang(work: SlowWork) -> None:
    """Each text is a word of 51,200 characters, which no beginning stands for."""

    def tokenize(texts: list[str]) -> list[list[int]]:
        for _ in range(max(1, sum(map(len, texts)) // 51_200)):
            work.step()
        return [[1] * len(text) for text in texts]

    cutter = TextCutter(tokenize, 256)
    work.leases.progress()
    work.overdue.clear()
    cutter.tokenize(["x" * 51_200] * COUNT, work.leases.progress)
    assert work.overdue == [False] * COUNT


def test_progress_is_reported_after_each_long_text_and_after_few_short_ones() -> None:
    batches, reports = list[int](), list[int]()

    def tokenize(texts: list[str]) -> list[list[int]]:
        batches.append(sum(map(len, texts)))
        return [[1] for _ in texts]

    cutter = TextCutter(tokenize, 1 << 20)
    batches.clear()
    cutter.tokenize(
        ["a" * (MAX_CHARACTERS // 2 + 1)] * 8 + ["b" * 100] * 5_000,
        lambda: reports.append(len(batches)),
    )
    assert reports == list(range(1, len(batches) + 1))
    assert max(batches) <= MAX_CHARACTERS
    assert 8 < len(batches) < 20
