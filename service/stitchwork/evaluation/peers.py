"""Other programs on the same anchors and rows, each in its own virtual environment."""

import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import numpy as np

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.supervisor.plan import describe_exit

SCRIPT: Final = Path(__file__).with_name("peer_script.py")
LATENTIS: Final = "latentis-procrustes"
UNCENTRED: Final = "uncentred-procrustes"
PACKAGES: Final = {
    LATENTIS: "latentis==0.0.8",
    "latentis-lstsq": "latentis==0.0.8",
    "rat-embed": "rat-embed==0.3.0",
    "isotrieve-ridge": "isotrieve==0.4.0",
}
"""By peer: the package in its environment."""
WRITTEN_FROM_PAPERS: Final = (
    "drift-adapter-procrustes",
    "drift-adapter-affine",
    "drift-adapter-mlp",
    UNCENTRED,
)
"""Methods that no package has, for which `peer_script.py` needs no more than numpy and torch."""
PEERS: Final = (*PACKAGES, *WRITTEN_FROM_PAPERS)
SERVERS: Final = {
    "infinity": "infinity-emb[server,torch]==0.0.78",
    "litserve": "litserve==0.2.19",
    "ray": "ray[serve]==2.60.0",
    "celery": "celery[redis]>=5.4",
}
"""By program that the benchmarks compare the service with: the package in its environment."""
EXTRA_PACKAGES: Final = {
    "litserve": ("transformers", "torch"),
    "ray": ("transformers", "torch"),
    "celery": ("numpy",),
}
"""By peer: further packages that it needs."""
COMPARING_PEERS: Final = ("rat-embed",)
"""Peers that do not translate: both sides become rows with one column for each anchor."""
DONE: Final = "done"
ERROR_LINES: Final = 3
"""Lines of standard error in an error message."""


class PeerProcess:
    """A process of another program, running until it is closed.

    Args:
        name: A name in `PEERS`.
        python: An interpreter that has it installed, such as that of `peer_environment`.

    Raises:
        InvalidInputError: If there is no such peer, or no such interpreter.
        JobFailedError: If it does not start, with its standard error.
    """

    def __init__(self, name: str, python: Path) -> None:
        if name not in PEERS:
            raise InvalidInputError(f"expected one of {', '.join(PEERS)}, got {name}")
        if not python.is_file():
            raise InvalidInputError(f"{name}: there is no interpreter {python}")
        self.name = name
        self._folder = TemporaryDirectory(prefix="stitchwork-peer-")
        self._stderr_path = Path(self._folder.name) / "stderr"
        with self._stderr_path.open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: S603
                [str(python), str(SCRIPT), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # Unbuffered, so that no write is pending after it has ended.
                bufsize=0,
            )
        try:
            self._await()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and delete its files."""
        with self._process:
            self._process.kill()
        self._folder.cleanup()

    def __call__(self, anchors_x: Floats, anchors_y: Floats, rows: Floats) -> Floats:
        """Rows (n, d_x) of one space as (n, d_y) of another.

        Raises:
            InvalidInputError: If the peer does not translate; see `relate`.
            JobFailedError: If it fails, with its standard error.
        """
        if self.name in COMPARING_PEERS:
            raise InvalidInputError(
                f"{self.name} only compares rows and cannot translate into the target space"
            )
        result, _ = self._request(anchors_x, anchors_y, rows, anchors_y[:0])
        expected = (len(rows), anchors_y.shape[1])
        if result.shape != expected:
            raise JobFailedError(f"{self.name}: expected rows {expected}, got {result.shape}")
        return result

    def relate(
        self, anchors_x: Floats, anchors_y: Floats, queries: Floats, database: Floats
    ) -> tuple[Floats, Floats]:
        """Queries (n, d_x) and a database (m, d_y) as rows that can be compared by cosine.

        Returns:
            (n, k) and (m, k) for a peer of `COMPARING_PEERS`; else the translated queries,
            (n, d_y), and the unchanged database.

        Raises:
            JobFailedError: If it fails, with its standard error.
        """
        return self._request(anchors_x, anchors_y, queries, database)

    def _request(
        self, anchors_x: Floats, anchors_y: Floats, x: Floats, y: Floats
    ) -> tuple[Floats, Floats]:
        if len(anchors_x) != len(anchors_y):
            raise InvalidInputError(
                f"expected parallel anchors, got {len(anchors_x)} and {len(anchors_y)}"
            )
        folder = Path(self._folder.name)
        input_path, output_path = folder / "input.npz", folder / "output.npz"
        np.savez(input_path, anchors_x=anchors_x, anchors_y=anchors_y, x=x, y=y)
        assert self._process.stdin  # noqa: S101
        try:
            self._process.stdin.write(f"{input_path}\t{output_path}\n".encode())
        except BrokenPipeError as error:
            raise self._failed() from error
        self._await()
        with np.load(output_path, allow_pickle=False) as npz:
            return npz["x"].astype(np.float32), npz["y"].astype(np.float32)

    def _await(self) -> None:
        """Wait for the line `done`; packages may print other lines before."""
        assert self._process.stdout  # noqa: S101
        for line in self._process.stdout:
            if line.strip().decode(errors="replace") == DONE:
                return
        raise self._failed()

    def _failed(self) -> JobFailedError:
        lines = self._stderr_path.read_text(errors="replace").strip().splitlines()
        message = " / ".join(line.strip() for line in lines[-ERROR_LINES:])
        return JobFailedError(
            f"{self.name} {describe_exit(self._process.wait())}: {message or 'no error output'}"
        )


def translate_with_peer(
    peer: str, python: Path, anchors_x: Floats, anchors_y: Floats, rows: Floats
) -> Floats:
    """Rows (n, d_x) as (n, d_y), by a peer that is started for this call only."""
    with PeerProcess(peer, python) as running:
        return running(anchors_x, anchors_y, rows)


def peer_environment(peer: str, folder: Path) -> Path:
    """The interpreter of a virtual environment with a peer installed, created if necessary.

    Args:
        peer: A name in `PEERS` or `SERVERS`; peers of one package share its environment, and those
            of `WRITTEN_FROM_PAPERS` run in this one.
        folder: Folder of environments.

    Raises:
        InvalidInputError: If there is no such peer.
        JobFailedError: If it cannot be installed, with pip's error output.
    """
    if peer in WRITTEN_FROM_PAPERS:
        return Path(sys.executable)
    packages = PACKAGES | SERVERS
    if peer not in packages:
        raise InvalidInputError(f"expected one of {', '.join(packages)}, got {peer}")
    package = packages[peer]
    environment = folder / package
    python, marker = environment / "bin" / "python", environment / "complete"
    if marker.exists():
        return python
    venv.create(environment, clear=True, with_pip=True)
    install = subprocess.run(  # noqa: S603
        [str(python), "-m", "pip", "install", "--quiet", package, *EXTRA_PACKAGES.get(peer, ())],
        capture_output=True,
        text=True,
        check=False,
    )
    if install.returncode:
        lines = [line for line in install.stderr.splitlines() if line.startswith("ERROR")]
        message = " / ".join(lines or install.stderr.strip().splitlines()[-ERROR_LINES:])
        raise JobFailedError(f"{package} cannot be installed: {message}")
    marker.touch()
    return python
