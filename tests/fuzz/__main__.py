"""`python -m tests.fuzz TARGET --seconds 600` searches for bytes that make a parser fail.

Coverage-guided, by atheris. It starts from the corpus, stores inputs that reach new code in another
folder, and ends when the time is up or at the first failure, whose bytes it writes to `crash-…`.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import atheris

CORPUS: Final = Path(__file__).parent / "corpus"
MAX_BYTES: Final = 4096
CALL_SECONDS: Final = 10
MEBIBYTES: Final = 3000

with atheris.instrument_imports(
    include=["stitchwork", "numpy.lib", "PIL", "starlette.formparsers", "python_multipart"]
):
    if "image" in sys.argv:
        # It imports torch, which the other targets do not need.
        import stitchwork.models.image_files  # noqa: F401
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--new-inputs", type=Path, help="Folder for inputs that reach new code.")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="fuzz") as folder:
        new_inputs = options.new_inputs or Path(folder)
        new_inputs.mkdir(parents=True, exist_ok=True)
        settings = {
            "max_total_time": options.seconds,
            "max_len": MAX_BYTES,
            "timeout": CALL_SECONDS,
            "rss_limit_mb": MEBIBYTES,
            "print_final_stats": 1,
        }
        flags = [f"-{name}={value}" for name, value in settings.items()]
        atheris.Setup(
            [sys.argv[0], *flags, str(new_inputs), str(CORPUS / options.target)],
            TARGETS[options.target],
        )
        atheris.Fuzz()


main()
