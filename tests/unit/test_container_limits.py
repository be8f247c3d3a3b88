"""Limits of containers, in the layouts that kernels and engines make."""

from pathlib import Path

import pytest

from stitchwork.container_limits import cpu_limit, memory_limit_bytes, thread_limit

V1 = "9:name=systemd:/\n4:memory:/docker/ab\n2:cpu,cpuacct:/docker/ab\n0::/\n"
V2 = "0::/kubepods/pod1/ab\n"
UNLIMITED = "9223372036854771712"


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "memory", "cpus"),
    [
        pytest.param("", {}, None, None, id="no groups"),
        pytest.param(V2, {}, None, None, id="version 2, the controllers are not there"),
        pytest.param(
            "0::/\n",
            {"sys/fs/cgroup/memory.max": "1073741824\n", "sys/fs/cgroup/cpu.max": "150000 100000"},
            1 << 30,
            1.5,
            id="version 2, a namespace of its own",
        ),
        pytest.param(
            "0::/\n",
            {"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n"},
            None,
            None,
            id="version 2, no limit",
        ),
        pytest.param(
            V2,
            {
                "sys/fs/cgroup/kubepods/pod1/ab/memory.max": "max\n",
                "sys/fs/cgroup/kubepods/pod1/memory.max": "2147483648\n",
                "sys/fs/cgroup/kubepods/memory.max": "4294967296\n",
                "sys/fs/cgroup/kubepods/pod1/ab/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/kubepods/pod1/cpu.max": "50000 100000\n",
            },
            1 << 31,
            0.5,
            id="version 2, the tightest of the groups above",
        ),
        pytest.param(
            V1,
            {
                "sys/fs/cgroup/memory/docker/ab/memory.limit_in_bytes": "1073741824\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED,
                "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/docker/ab/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1 << 30,
            2.0,
            id="version 1",
        ),
        pytest.param(
            V1,
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            1 << 29,
            3.0,
            id="version 1, mounted without the host's path",
        ),
    ],
)
def test_limits_are_read_from_the_groups_of_the_process(
    tmp_path: Path, groups: str, files: dict[str, str], memory: int | None, cpus: float | None
) -> None:
    root = tree(tmp_path, groups, files)
    assert memory_limit_bytes(root) == memory
    assert cpu_limit(root) == cpus


def test_machine_without_control_groups_has_no_limits(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) is None
    assert cpu_limit(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cores", "threads"),
    [("50000", 4, 1), ("250000", 4, 3), ("400000", 4, None), ("max", 4, None)],
)
def test_threads_are_as_many_as_the_cpus_of_the_container(
    tmp_path: Path, quota: str, cores: int, threads: int | None
) -> None:
    root = tree(tmp_path, "0::/\n", {"sys/fs/cgroup/cpu.max": f"{quota} 100000\n"})
    assert thread_limit(cores, root) == threads


def test_limits_of_this_machine_are_readable() -> None:
    memory = memory_limit_bytes()
    assert memory is None or memory > 1 << 20
