"""`python docs/build_guide.py FOLDER`: build the pages of `/guide`; a warning is an error."""

import subprocess
import sys
import tempfile
from pathlib import Path


def main(target: Path) -> None:
    """Build the pages.

    Args:
        target: Folder of the pages.
    """
    # The doctrees and the build's own records are not served.
    with tempfile.TemporaryDirectory() as cache:
        command = ["-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", "-d", cache]
        subprocess.run([sys.executable, *command, Path(__file__).parent, target], check=True)
    for name in (".buildinfo", "objects.inv"):
        (target / name).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
