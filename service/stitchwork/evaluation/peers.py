"""Other programs on the same anchors and rows, each in an environment of its own."""

import subprocess
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

import numpy as np

from stitchwork.client import Floats
from stitchwork.errors import InvalidInputError, JobFailedError
from stitchwork.supervisor.plan import describe_exit

RUNNER: Final = Path(__file__).with_name("peer_script.py")
LATENTIS: Final = "latentis-procrustes"
PACKAGES: Final = {
    LATENTIS: "latentis==0.0.8",
    "latentis-lstsq": "latentis==0.0.8",
    "rat-embed": "rat-embed==0.3.0",
}
"""By peer: what its environment holds."""
SERVERS: Final = {
    "infinity": "infinity-emb[server,torch]==0.0.78",
    "litserve": "litserve==0.2.19",
    "ray": "ray[serve]==2.60.0",
    "celery": "celery[redis]>=5.4",
}
"""Programs that the service is timed beside, and what their environments hold."""
MORE: Final = {
    "litserve": ("transformers", "torch"),
    "ray": ("transformers", "torch"),
    "celery": ("numpy",),
}
"""What a peer needs for the work itself."""
RELATING: Final = ("rat-embed",)
"""Peers that translate into no space: both sides become rows as wide as there are anchors."""
DONE: Final = "done"
TOLD: Final = 3


class Peer:
    """Another program, running until it is closed.

    Args:
        name: One of `PACKAGES`.
        python: An interpreter that has it, such as `environment` makes.

    Raises:
        InvalidInputError: If there is no such peer, or no such interpreter.
        JobFailedError: If it does not start, with what it said.
    """

    def __init__(self, name: str, python: Path) -> None:
        if name not in PACKAGES:
            raise InvalidInputError(f"expected one of {', '.join(PACKAGES)}, got {name}")
        if not python.is_file():
            raise InvalidInputError(f"{name}: there is no interpreter {python}")
        self.name = name
        self._folder = TemporaryDirectory(prefix="stitchwork-peer-")
        self._complaints = Path(self._folder.name) / "stderr"
        with self._complaints.open("wb") as complaints:
            self._process = subprocess.Popen(  # noqa: S603
                [str(python), str(RUNNER), name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                # Nothing may be left to be written when it has ended.
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
        """End the program."""
        with self._process:
            self._process.kill()
        self._folder.cleanup()

    def __call__(self, anchors_x: Floats, anchors_y: Floats, rows: Floats) -> Floats:
        """Rows (n, d_x) of one space as (n, d_y) of another.

        Raises:
            InvalidInputError: If the peer translates into no space; see `relate`.
            JobFailedError: If it fails, with what it said.
        """
        if self.name in RELATING:
            raise InvalidInputError(
                f"{self.name} only compares; it gives no rows of the target space"
            )
        found, _ = self._ask(anchors_x, anchors_y, rows, anchors_y[:0])
        if found.shape != (len(rows), anchors_y.shape[1]):
            expected = (len(rows), anchors_y.shape[1])
            raise JobFailedError(f"{self.name}: expected rows {expected}, got {found.shape}")
        return found

    def relate(
        self, anchors_x: Floats, anchors_y: Floats, queries: Floats, database: Floats
    ) -> tuple[Floats, Floats]:
        """Queries (n, d_x) and a database (m, d_y) as rows that can be compared by their cosine.

        Returns:
            (n, k) and (m, k) for a peer of `RELATING`; else the queries translated, (n, d_y), and
            the database as it was.

        Raises:
            JobFailedError: If it fails, with what it said.
        """
        return self._ask(anchors_x, anchors_y, queries, database)

    def _ask(
        self, anchors_x: Floats, anchors_y: Floats, x: Floats, y: Floats
    ) -> tuple[Floats, Floats]:
        if len(anchors_x) != len(anchors_y):
            raise InvalidInputError(
                f"expected parallel anchors, got {len(anchors_x)} and {len(anchors_y)}"
            )
        asked, answer = (Path(self._folder.name) / name for name in ("asked.npz", "answer.npz"))
        np.savez(asked, anchors_x=anchors_x, anchors_y=anchors_y, x=x, y=y)
        assert self._process.stdin  # noqa: S101
        try:
            self._process.stdin.write(f"{asked}\t{answer}\n".encode())
        except BrokenPipeError as error:
            raise self._failed() from error
        self._await()
        with np.load(answer, allow_pickle=False) as held:
            return held["x"].astype(np.float32), held["y"].astype(np.float32)

    def _await(self) -> None:
        """Wait until it is done; packages may say things of their own before."""
        assert self._process.stdout  # noqa: S101
        for line in self._process.stdout:
            if line.strip().decode(errors="replace") == DONE:
                return
        raise self._failed()

    def _failed(self) -> JobFailedError:
        lines = self._complaints.read_text(errors="replace").strip().splitlines()
        said = " / ".join(line.strip() for line in lines[-TOLD:])
        return JobFailedError(
            f"{self.name} {describe_exit(self._process.wait())}: {said or 'it said nothing'}"
        )


def translate_with_peer(
    peer: str, python: Path, anchors_x: Floats, anchors_y: Floats, rows: Floats
) -> Floats:
    """Rows (n, d_x) as (n, d_y), by a peer that is started for this alone."""
    with Peer(peer, python) as running:
        return running(anchors_x, anchors_y, rows)


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of a virtual environment that holds a peer; made if it is not there yet.

    Args:
        peer: One of `PACKAGES` or `SERVERS`; peers of one package share its environment.
        folder: Where environments are kept.

    Raises:
        InvalidInputError: If there is no such peer.
        JobFailedError: If it cannot be installed, with what pip said.
    """
    known = PACKAGES | SERVERS
    if peer not in known:
        raise InvalidInputError(f"expected one of {', '.join(known)}, got {peer}")
    package = known[peer]
    home = folder / package
    python, whole = home / "bin" / "python", home / "whole"
    if whole.exists():
        return python
    venv.create(home, clear=True, with_pip=True)
    done = subprocess.run(  # noqa: S603
        [str(python), "-m", "pip", "install", "--quiet", package, *MORE.get(peer, ())],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        said = " / ".join(lines or done.stderr.strip().splitlines()[-TOLD:])
        raise JobFailedError(f"{package} cannot be installed: {said}")
    whole.touch()
    return python
