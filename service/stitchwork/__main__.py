"""`python -m stitchwork`: the `stitchwork` command."""

from stitchwork.cli.main import console

if __name__ == "__main__":
    console()
