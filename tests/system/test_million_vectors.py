"""A million vectors through the command line and the client: memory stays flat on both sides."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from stitchwork.client import Stitchwork
from tests.conftest import make_pair
from tests.support.memory import peak_resident
from tests.support.running_service import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

WIDTH = 384
MILLION = 1_000_000
FEW = 100_000
ROUNDS = 50
MEBI = 1 << 20
SLACK = 64 * MEBI
"""What ten times as many vectors may add; a copy of them would be thirty times as large."""
THROUGH_COMMAND = """
import sys
from stitchwork.cli.main import main

assert main(sys.argv[1:]) == 0
from tests.support.memory import peak_resident
print(peak_resident())
"""
THROUGH_CLIENT = """
import sys, numpy as np
from stitchwork.client import Stitchwork
from tests.support.memory import private

peak = 0
def watch(done, total):
    global peak
    peak = max(peak, private())

rows = np.load(sys.argv[2], mmap_mode="r")
out = np.lib.format.open_memmap(sys.argv[3], "w+", np.float32, rows.shape)
with Stitchwork(sys.argv[1]) as client:
    client.translate(rows, "x", "y", sys.argv[4], out=out, progress=watch)
print(peak)
"""


class Service(NamedTuple):
    """A service with two spaces of 1,000 anchors, its process, and a file of vectors."""

    url: str
    api: int
    file: Path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    pair = make_pair(k=1000, n=FEW, dims=(WIDTH, WIDTH), latent=64)
    folder = tmp_path_factory.mktemp("million")
    for name, count in (("few.npy", FEW), ("million.npy", MILLION)):
        out = np.lib.format.open_memmap(folder / name, "w+", np.float32, (count, WIDTH))
        for start in range(0, count, FEW):
            out[start : start + FEW] = pair.x
        out.flush()
        del out
    with running(workers=0) as running_service, Stitchwork(running_service.url) as client:
        client.put_space("x", "S", anchors=pair.x_anchors)
        client.put_space("y", "S", anchors=pair.y_anchors)
        yield Service(running_service.url, running_service.pids["api"], folder)
    for path in folder.iterdir():
        path.unlink()


def run(code: str, *words: str) -> tuple[str, int]:
    """The output of a program, and the number in its last line."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, text=True, check=True
    )
    output, _, number = done.stdout.strip().rpartition("\n")
    return output, int(number)


def matmul_rate(bridge: str) -> float:
    """Vectors per second of the bridge's matrix products alone, in this process."""
    rng = np.random.default_rng(0)
    inner = [1000] if bridge == "exp" else []
    widths = [WIDTH, *inner, WIDTH]
    factors = [rng.normal(size=shape).astype(np.float32) for shape in pairwise(widths)]
    rows = rng.normal(size=(4096, WIDTH)).astype(np.float32)
    start = time.perf_counter()
    for _ in range(ROUNDS):
        product = rows
        for factor in factors:
            product = product @ factor
    return ROUNDS * len(rows) / (time.perf_counter() - start)


def check(service: Service, count: int, expected: Any) -> None:
    """Check the last rows; they repeat every 100,000."""
    out = np.load(service.file / "out.npy", mmap_mode="r")
    assert out.shape == (count, WIDTH)
    np.testing.assert_allclose(out[-100:], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(out[FEW - 100 : FEW], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("interface", "bridge"), [("command", "exp"), ("command", "ridge"), ("client", "exp")]
)
def test_million_vectors_take_no_more_memory_than_a_tenth_of_them(
    service: Service, interface: str, bridge: str
) -> None:
    last = np.load(service.file / "few.npy", mmap_mode="r")[-100:]
    with Stitchwork(service.url) as client:
        expected = client.translate(last, "x", "y", bridge)
    peaks: dict[str, tuple[int, int]] = {}
    for name, count in (("few.npy", FEW), ("million.npy", MILLION)):
        source, out = str(service.file / name), str(service.file / "out.npy")
        start = time.perf_counter()
        if interface == "command":
            words = ("translate", source, out, "--source", "x", "--target", "y", "--bridge", bridge)
            output, own = run(THROUGH_COMMAND, *words, "--url", service.url, "--json")
            assert json.loads(output)["rows"] == count
        else:
            _, own = run(THROUGH_CLIENT, service.url, source, out, bridge)
        speed = count / (time.perf_counter() - start)
        check(service, count, expected)
        peaks[name] = own, peak_resident(service.api)
        sizes = ", ".join(f"{size / MEBI:.0f}" for size in peaks[name])
        print(  # noqa: T201
            f"{interface} {bridge}: {count:,} vectors, {speed:,.0f}/s of "
            f"{matmul_rate(bridge):,.0f}/s bare; at most {sizes} MiB in it and in the API"
        )
    for few, million in zip(peaks["few.npy"], peaks["million.npy"], strict=True):
        assert million < few + SLACK
