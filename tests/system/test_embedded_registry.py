"""The embedded registry on a full disk, and after its append-only file was cut."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stitchwork.supervisor import append_only_file
from tests.support import machine
from tests.support.running_service import running
from tests.support.waiting import wait_until

COMMAND = (sys.executable, "-P", "-m", "stitchwork")
MB = 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def declare(http: httpx.Client, name: str, size: int = 3) -> httpx.Response:
    ids = [f"{name}-{i}-{'x' * 1000}" for i in range(size)]
    return http.put(f"/anchor-sets/{name}", json={"ids": ids})


def test_full_disk_is_named_and_the_registry_lives_on(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = small_disk / "data"
    with running(workers=0, data_dir=data) as service:
        pid = service.pids["registry"]
        with httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http:
            wait_until("the warning", lambda: "MB are free on the disk" in capfd.readouterr().err)
            assert declare(http, "before").status_code == 201
            ballast = small_disk / "ballast"
            with ballast.open("wb") as file:
                try:
                    while True:
                        file.write(bytes(64 * 1024))
                        file.flush()
                except OSError:
                    pass
            refused = [declare(http, f"full-{i}", 2000) for i in range(3)]
            for response in refused:
                assert response.status_code == 503, response.text
                assert "No space left on device" in response.json()["detail"]
            assert http.get("/anchor-sets/before").status_code == 200
            assert service.pids["registry"] == pid
            run = subprocess.run(
                [*COMMAND, "backup", str(small_disk.parent / "backup"), "--data-dir", str(data)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert run.returncode == 0, run.stderr
            ballast.unlink()
            wait_until("room", lambda: declare(http, "after").status_code in (200, 201))
            assert service.pids["registry"] == pid
    with (
        running(workers=0, data_dir=data) as service,
        httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http,
    ):
        for name in ("before", "after"):
            assert http.get(f"/anchor-sets/{name}").json()["size"] == 3


def test_cut_append_only_file_is_copied_and_the_loss_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    with (
        running(workers=0, data_dir=data) as service,
        httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http,
    ):
        assert declare(http, "first").status_code == 201
        assert declare(http, "last").status_code == 201
    (file,) = (data / "registry" / append_only_file.FOLDER).glob("*.incr.aof")
    os.truncate(file, file.read_bytes().rindex(b"last-2") + 10)
    cut = file.read_bytes()
    capfd.readouterr()
    with (
        running(workers=0, data_dir=data) as service,
        httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http,
    ):
        message = capfd.readouterr().err
        assert "the registry's append-only file ended within a command" in message
        assert "stitchwork:anchor-set:last" in message
        assert http.get("/anchor-sets/first").status_code == 200
        assert http.get("/anchor-sets/last").status_code == 404
        assert declare(http, "last").status_code == 201
    (copy,) = (data / "registry").glob("*.truncated")
    assert copy.read_bytes() == cut
    assert str(copy) in message
    with (
        running(workers=0, data_dir=data) as service,
        httpx.Client(base_url=service.url, timeout=machine.deadline(30)) as http,
    ):
        assert http.get("/anchor-sets/last").status_code == 200
    assert len(list((data / "registry").glob("*.truncated"))) == 1
    assert "ended within a command" not in capfd.readouterr().err


def test_append_only_file_that_is_damaged_in_the_middle_is_left_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / append_only_file.FOLDER
    folder.mkdir()
    (folder / "appendonly.aof.manifest").write_text("file a.incr.aof seq 1 type i\n")
    file = folder / "a.incr.aof"
    whole = b"*1\r\n$4\r\nPING\r\n" * 3
    transaction = b"*1\r\n$5\r\nMULTI\r\n" + whole
    for content, repaired in (
        (whole, None),
        (b"", None),
        (whole + b"\0" * 100, None),
        (whole[:20] + b"x" + whole[20:], None),
        (b"#TS:1\r\n" + whole, None),
        (whole + whole[:9], whole),
        (whole + b"*", whole),
        (whole + transaction, whole),
        (whole + transaction + b"*1\r\n$4\r\nEX", whole),
        (whole + transaction + b"*1\r\n$4\r\nEXEC\r\n", None),
    ):
        file.write_bytes(content)
        loss = append_only_file.repair(tmp_path)
        assert (loss is None) == (repaired is None), content
        assert file.read_bytes() == (content if repaired is None else repaired)
