"""Checks `STITCHWORK_…` environment variables: misspelled names, and Kubernetes service links."""

import os
import re
from collections.abc import Collection
from typing import Final

import click

PREFIX: Final = "STITCHWORK_"
CLIENT_VARIABLES: Final = frozenset({"STITCHWORK_URL", "STITCHWORK_KEY"})
COMPOSE_VARIABLES: Final = frozenset({"STITCHWORK_PORTS"})
"""Read by docker-compose.yml alone."""
CLOSE_MATCH: Final = 0.9
"""A swapped or missing letter is closer than this to its variable; no setting is."""
_LINK_NAME: Final = re.compile(r"_SERVICE_(HOST|PORT\w*)$|_PORT_\d+_(TCP|UDP|SCTP)(_\w+)?$")
_LINK_VALUE: Final = re.compile(r"(tcp|udp|sctp)://")


def check_client_environment() -> None:
    """Name variables that look like a misspelled one of the client."""
    from difflib import get_close_matches

    for name in _variables():
        close = get_close_matches(name.upper(), CLIENT_VARIABLES, n=1, cutoff=CLOSE_MATCH)
        if close and name.upper() not in CLIENT_VARIABLES:
            _warn(f"the environment variable {name} is not read; did you mean {close[0]}?")


def check_service_environment(settings: Collection[str]) -> None:
    """Name variables that are no setting, and drop them, so that children do not name them again.

    Kubernetes sets variables such as `STITCHWORK_PORT=tcp://10.0.0.7:8765` in every pod beside a
    service called `stitchwork`; these are dropped as well.

    Args:
        settings: The names of all settings.
    """
    from difflib import get_close_matches

    known = {PREFIX + name.upper() for name in settings} | CLIENT_VARIABLES | COMPOSE_VARIABLES
    links = [name for name in _variables() if _is_service_link(name)]
    if links:
        _warn(f"ignored as service links of Kubernetes, not settings: {', '.join(links)}")
    for name in links:
        del os.environ[name]
    for name in _variables():
        if name.upper() not in known:
            close = get_close_matches(name.upper(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            _warn(f"the environment variable {name} is not a setting{hint}")
            del os.environ[name]


def _variables() -> list[str]:
    return sorted(name for name in os.environ if name.upper().startswith(PREFIX))


def _is_service_link(name: str) -> bool:
    is_port = name.endswith("_PORT") and bool(_LINK_VALUE.match(os.environ[name]))
    return is_port or bool(_LINK_NAME.search(name))


def _warn(message: str) -> None:
    click.echo(f"stitchwork: {message}", err=True)
