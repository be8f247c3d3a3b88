"""A local HTTP server with the paths of the model hub, for the hub's own library."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

COMMIT: Final = "a" * 40
"""The commit of every repository; `main` points to it."""


@dataclass
class Repository:
    """A model on the hub.

    Attributes:
        folder: Its files.
        gated: The status of its files, 401 or 403, if only some users may read them.
        broken: Name of a file whose connection always ends after half of it.
    """

    folder: Path
    gated: int | None = None
    broken: str | None = None


@dataclass
class ModelHub:
    """A hub, and what was downloaded from it.

    Attributes:
        url: Its endpoint, as `HF_ENDPOINT` names it.
        is_down: Whether it answers everything with 503.
        repositories: The models by id.
        downloads: The id and the path of each file that was downloaded.
    """

    url: str
    is_down: bool = False
    repositories: dict[str, Repository] = field(default_factory=dict)
    downloads: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def running_hub() -> Iterator[ModelHub]:
    """Run a hub without models."""
    hub = ModelHub("")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    """Answers `/api/models/...` and `/{id}/resolve/{revision}/{path}`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, hub: ModelHub, *arguments: Any) -> None:
        self._hub = hub
        super().__init__(*arguments)

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        is_api = path.startswith("api/models/")
        parts = path.removeprefix("api/models/").split("/")
        name, rest = "/".join(parts[:2]), parts[2:]
        repository = self._hub.repositories.get(name)
        if self._hub.is_down:
            self._refuse(503, None, "Service unavailable")
            return
        if repository is None:
            # As the hub answers requests without a token: it may be private.
            self._refuse(401, "RepoNotFound", "Invalid username or password.")
            return
        revision = rest[1] if len(rest) > 1 else "main"
        if revision not in ("main", COMMIT):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif not is_api:
            self._resolve(name, repository, "/".join(rest[2:]))
        elif rest and rest[0] == "tree":
            self._json([_entry(repository, path) for path in _paths(repository)])
        else:
            siblings = [{"rfilename": path} for path in _paths(repository)]
            self._json({"id": name, "sha": COMMIT, "siblings": siblings})

    def _resolve(self, name: str, repository: Repository, path: str) -> None:
        if repository.gated:
            self._refuse(repository.gated, "GatedRepo", f"Access to model {name} is restricted.")
        elif path not in _paths(repository):
            self._refuse(404, "EntryNotFound", "Entry not found")
        else:
            self._file(name, repository, path)

    def _file(self, name: str, repository: Repository, path: str) -> None:
        content = (repository.folder / path).read_bytes()
        first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
        start = int(first)
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(content) - start),
            "Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}",
            "ETag": f'"{_digest(content)}"',
            "X-Repo-Commit": COMMIT,
            "Accept-Ranges": "bytes",
        }
        self.send_response(206 if start else 200)
        for header, value in headers.items():
            if start or header != "Content-Range":
                self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if path == repository.broken:
            # Half of it the first time, and nothing more at any later attempt.
            self.wfile.write(content[start : len(content) // 2])
            self.close_connection = True
            return
        self.wfile.write(content[start:])
        self._hub.downloads.append((name, path))

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, code: str | None, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _paths(repository: Repository) -> list[str]:
    folder = repository.folder
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def _entry(repository: Repository, path: str) -> dict[str, Any]:
    content = (repository.folder / path).read_bytes()
    return {"type": "file", "path": path, "size": len(content), "oid": _digest(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()
