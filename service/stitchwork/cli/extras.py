"""Which extra installs what a command needs."""

from collections.abc import Iterable
from importlib.util import find_spec

import click


class MissingExtraError(click.ClickException):
    """A package that a command needs is not installed."""

    def __init__(self, command: str, package: str, extra: str) -> None:
        super().__init__(f"stitchwork {command} needs {package}: pip install 'stitchwork[{extra}]'")


def require(command: str, packages: Iterable[str], extra: str) -> None:
    """Check that packages are installed, without importing them.

    Raises:
        MissingExtraError: If one is not; it names the first.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(command, package, extra)
