"""What an encoder gets of the workers, by what the others took in the last seconds."""

import math

import pytest

from stitchwork.queue.encoder_loads import (
    MAX_JOB_MS,
    WINDOW_MS,
    EncoderLoads,
    EncoderSample,
    fair_share,
)
from stitchwork.queue.requirements import ModelRequirement
from stitchwork.queue.worker_registry import WorkerStatus

ANY = WorkerStatus(worker="any")


@pytest.mark.parametrize(
    ("capacity", "demands", "expected"),
    [
        (1.0, [], 1.0),
        (1.0, [0.3], 0.7),
        (1.0, [1.0], 0.5),
        (1.0, [0.1, 0.9], 0.45),
        (1.0, [1.0, 1.0, 0.1], 0.3),
        (4.0, [0.5, 3.5], 1.75),
    ],
)
def test_fair_share_is_what_others_do_not_take_or_an_equal_part(
    capacity: float, demands: list[float], expected: float
) -> None:
    assert fair_share(capacity, demands) == pytest.approx(expected)


def loads(**work_ms: tuple[int, int]) -> EncoderLoads:
    """Encoders of which so much work was done at the beginning and at the end of a window."""
    result = EncoderLoads()
    for number in (0, 1):
        sample = {
            name: EncoderSample(ModelRequirement(f"model-{name}"), 2.0, work[number])
            for name, work in work_ms.items()
        }
        result.add(number * WINDOW_MS, sample)
    return result


def test_capacity_counts_the_work_on_other_encoders() -> None:
    half = WINDOW_MS // 2
    sample = loads(a=(70, 70), b=(500, 500 + half), c=(0, WINDOW_MS))
    assert sample.capacity("c", ModelRequirement("model-c"), [ANY]) == pytest.approx(0.5), (
        "b takes the other half"
    )
    assert sample.capacity("a", ModelRequirement("model-a"), [ANY]) == pytest.approx(1 / 3), (
        "an equal share"
    )
    # b takes a half of three workers, c one.
    assert loads(b=(0, half), c=(0, WINDOW_MS)).capacity(
        "new", ModelRequirement("model-new"), [ANY] * 3
    ) == pytest.approx(1.5)
    assert EncoderLoads().capacity("a", ModelRequirement("model-a"), [ANY]) == 1.0, (
        "nothing is known yet"
    )


def test_capacity_leaves_out_work_on_other_workers() -> None:
    sample = loads(b=(0, WINDOW_MS))
    apart = [
        WorkerStatus(worker="1", serves=("model-a",)),
        WorkerStatus(worker="2", serves=("model-b",)),
    ]
    assert sample.capacity("a", ModelRequirement("model-a"), apart) == 1.0
    shared = [ANY, WorkerStatus(worker="2", serves=("model-b",))]
    assert sample.capacity("a", ModelRequirement("model-a"), shared) == pytest.approx(0.5)


def test_capacity_forgets_work_after_the_window() -> None:
    sample = loads(b=(0, WINDOW_MS))
    assert sample.capacity("a", ModelRequirement("model-a"), [ANY]) == pytest.approx(0.5)
    for second in range(1, 12):
        now = {"b": EncoderSample(ModelRequirement("model-b"), 2.0, WINDOW_MS)}
        sample.add(WINDOW_MS + 1000 * second, now)
    assert sample.capacity("a", ModelRequirement("model-a"), [ANY]) == 1.0


def test_jobs_of_a_slow_encoder_are_small() -> None:
    sample = loads(a=(0, 0))
    assert sample.max_job_cost("a") == MAX_JOB_MS / 2.0
    assert sample.max_job_cost("unknown") == math.inf
    assert EncoderLoads().max_job_cost("a") == math.inf
