"""Results of benchmarks, timing in turns, and pinned processes."""

import contextlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from benchmarks.cores import pinned_to
from stitchwork.errors import StitchworkError, UnavailableError
from stitchwork.supervisor import ServiceProcess

LOAD_CORE, MEASURED_CORE = 0, 1
"""Load and servers share the first core; the measured process has the second to itself."""
PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "API": ("api",),
    "worker": ("worker",),
    "servers": ("registry", "queue"),
}
"""What the processes of a service belong to, by how their names begin."""


@dataclass(frozen=True)
class BenchmarkResult:
    """The result of one case.

    Attributes:
        case: Name of the case.
        baseline: What the service is compared with, or the condition of the measurement.
        unit: Unit of the measurements.
        ours: Measurements of the service, by round.
        partner: Measurements of the baseline, by round; empty where there is only a bound.
        goal: Bound of the ratio ours/partner, or of ours where there is no partner.
        higher_is_better: Whether the goal is a lower bound.
        details: Further measurements, such as the 99th percentile.
        is_difference: Whether the goal is a bound of the difference instead of the ratio.
        cpu_ms: CPU milliseconds per request of each of `PARTS`; empty where it was not measured.
    """

    case: str
    baseline: str
    unit: str
    ours: list[float]
    partner: list[float]
    goal: float
    higher_is_better: bool
    details: Mapping[str, Any] = field(default_factory=dict)
    is_difference: bool = False
    cpu_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def figure(self) -> float:
        """The ratio or difference that the goal bounds, from medians over rounds."""
        ours = statistics.median(self.ours)
        if not self.partner:
            return ours
        partner = statistics.median(self.partner)
        return ours - partner if self.is_difference else ours / partner

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.figure >= self.goal if self.higher_is_better else self.figure <= self.goal


@dataclass(frozen=True)
class BenchmarkContext:
    """How a case is measured.

    Attributes:
        rounds: Number of measured rounds; one more warms up.
        peers: Interpreters of other programs, by name; cases skip missing ones.
        log: Prints a line.
        not_measured: What was to be measured and was not, with the reason.
    """

    rounds: int
    peers: Mapping[str, Path]
    log: Callable[[str], None]
    not_measured: list[str] = field(default_factory=list)

    def peer(self, name: str) -> Path | None:
        """The interpreter of another program; None, with a message, where there is none."""
        interpreter = self.peers.get(name)
        if interpreter is None:
            self.log(f"  {name} skipped: set --peers to a folder for its environment")
            self.not_measured.append(f"{name} (no environment)")
        return interpreter

    @contextlib.contextmanager
    def attempt(self, name: str) -> Iterator[None]:
        """Log an error within the context; what else is measured, which takes long, goes on."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 other programs fail in many ways
            words = error.message if isinstance(error, StitchworkError) else repr(error)
            self.log(f"  {name} failed: {words}")
            # Messages name paths of this machine, which are no part of a page.
            self.not_measured.append(f"{name} (failed)")


def cpu_milliseconds(service: ServiceProcess) -> dict[str, float]:
    """CPU time of each of the `PARTS` of a service so far, in milliseconds."""
    ticks = dict.fromkeys(PARTS, 0)
    for part, names in PARTS.items():
        for name, pid in service.pids.items():
            if name.startswith(names):
                # The fields after the name, which may contain spaces and parentheses.
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks[part] += int(fields[11]) + int(fields[12])
    return {part: 1000 * count / os.sysconf("SC_CLK_TCK") for part, count in ticks.items()}


def time_in_turns(
    functions: Sequence[Callable[[], object]], rounds: int, count: int
) -> list[list[float]]:
    """Median duration of each function in milliseconds, by round, called in turns.

    Args:
        functions: What to time.
        rounds: Number of measured rounds; one more warms up.
        count: Calls of each function in a round.
    """
    medians: list[list[float]] = [[] for _ in functions]
    for i in range(rounds + 1):
        durations: list[list[float]] = [[] for _ in functions]
        for _ in range(count):
            for seconds, function in zip(durations, functions, strict=True):
                start = time.perf_counter()
                function()
                seconds.append(time.perf_counter() - start)
        if i:
            for of_function, seconds in zip(medians, durations, strict=True):
                of_function.append(statistics.median(seconds) * 1000)
    return medians


def pin_process(pid: int, core: int) -> None:
    """Pin a process, with all its current threads, to one core."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), {core})


@contextlib.contextmanager
def on_core(core: int) -> Iterator[None]:
    """Pin this thread to a core within the context, and its matrix products to this thread.

    The threads that BLAS started when it was loaded would use the other cores.
    """
    with pinned_to([core]), threadpool_limits(1):
        yield


def pin_api(service: ServiceProcess) -> None:
    """Pin the API of a service to the measured core."""
    pin_process(service.pids["api"], MEASURED_CORE)


@contextlib.contextmanager
def measuring_process(
    command: Sequence[str], core: int = LOAD_CORE
) -> Iterator[Callable[[str], float]]:
    """A process that replies to each line with a number, after it has printed `ready`."""
    with ready_process(command, core) as (stdin, stdout, _):

        def request(line: str) -> float:
            print(line, file=stdin, flush=True)
            return float(stdout.readline())

        yield request


@contextlib.contextmanager
def ready_process(command: Sequence[str], core: int) -> Iterator[tuple[Any, Any, list[str]]]:
    """A process on a core that has printed `ready`.

    Yields:
        Its standard input and output, and the lines that it printed before `ready`.

    Raises:
        UnavailableError: If it exits before that.
    """
    env = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with on_core(core):
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env)  # noqa: S603
    assert process.stdin is not None  # noqa: S101
    assert process.stdout is not None  # noqa: S101
    lines: list[str] = []
    try:
        for line in process.stdout:
            if line.strip() == "ready":
                break
            lines.append(line.strip())
        else:
            raise UnavailableError(f"the baseline process {command[1:4]} did not start")
        yield process.stdin, process.stdout, lines
    finally:
        process.stdin.close()
        process.terminate()
        process.wait(30)
        process.stdout.close()
