"""`python -m stitchwork`: the `stitchwork` command."""

import sys

from stitchwork.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
