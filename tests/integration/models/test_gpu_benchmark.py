"""`python -m benchmarks.gpu`: it refuses a machine without a GPU, and its steps run on a CPU."""

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import torch

from tests.support.processes import without_settings

SERVICE: Final = Path(__file__).parents[3] / "service"
STEPS: Final = (
    *("equal to the CPU, float32", "equal to the CPU, bfloat16", "equal to the CPU, float16"),
    *("inputs/s of the bare pass, by batch", "batches with copies, against the bare pass"),
    *("out of memory: the batch is split", "recovery after it: small BERT: yes"),
    *("10 models in turns, half of them fit", "worker at saturation, against the bare pass"),
    "one input, one client, over the pass",
)


def run(*options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *options],
        cwd=SERVICE,
        env=without_settings(OMP_NUM_THREADS="1", COLUMNS="200"),
        capture_output=True,
        text=True,
    )


def test_machine_without_a_gpu_is_refused_in_a_sentence() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    result = run()
    assert (result.returncode, result.stdout) == (3, "")
    assert "has no GPU that torch can use" in result.stderr


@pytest.mark.slow
def test_every_step_runs_on_a_cpu() -> None:
    result = run("--device", "cpu")
    assert result.returncode == 0, result.stderr[-3000:]
    for step in STEPS:
        assert step in result.stdout
    for line in result.stdout.splitlines():
        if "equal to the CPU" in line and ": cosine" in line:
            assert float(line.split()[-1]) > 0.999, line
    assert ": 0 splits" not in result.stdout
