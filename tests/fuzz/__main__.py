"""`python -m tests.fuzz TARGET --seconds 600` looks for bytes that a parser cannot bear.

Coverage-guided, by atheris. It starts from the kept corpus, keeps what it finds new in a folder of
its own, and ends with the first finding, whose bytes it writes as `crash-…`, or with the time.
"""

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import atheris

CORPUS: Final = Path(__file__).parent / "corpus"
MOST_BYTES: Final = 4096
CALL_SECONDS: Final = 10
MEBIBYTES: Final = 3000

with atheris.instrument_imports(
    include=["stitchwork", "numpy.lib", "PIL", "starlette.formparsers", "python_multipart"]
):
    if "image" in sys.argv:
        # It brings torch along, which the other targets can do without.
        import stitchwork.models.timm_encoder  # noqa: F401
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Run one target."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--found", type=Path, help="Folder that keeps what reaches new code.")
    told = parser.parse_args()
    with TemporaryDirectory(prefix="fuzz") as folder:
        found = told.found or Path(folder)
        found.mkdir(parents=True, exist_ok=True)
        options = {
            "max_total_time": told.seconds,
            "max_len": MOST_BYTES,
            "timeout": CALL_SECONDS,
            "rss_limit_mb": MEBIBYTES,
            "print_final_stats": 1,
        }
        flags = [f"-{name}={value}" for name, value in options.items()]
        atheris.Setup(
            [sys.argv[0], *flags, str(found), str(CORPUS / told.target)], TARGETS[told.target]
        )
        atheris.Fuzz()


main()
