"""Routes of the pages: files of the package, none of which depends on what is registered.

The page at `/` reads the HTTP API with the key that its user enters. URLs in pages are relative, so
that they hold below a path prefix of a proxy.
"""

import base64
import hashlib
import mimetypes
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import NotModifiedResponse

from stitchwork.errors import UnknownResourceError

router = APIRouter(include_in_schema=False)

FOLDER: Final = Path(str(files("stitchwork.web")))
ASSETS: Final = FOLDER / "assets"
GUIDE: Final = FOLDER / "guide"
"""Built from the documentation with the package, and absent in a source tree until then."""
STRICT: Final = (
    "default-src 'none'",
    "base-uri 'none'",
    "frame-ancestors 'none'",
    "connect-src 'self'",
    "font-src 'self'",
    "img-src 'self' data:",
)
POLICY: Final = "; ".join((*STRICT, "form-action 'none'", "script-src 'self'", "style-src 'self'"))
"""What a browser may load for the page at `/`: nothing inline, nothing of another host."""
_INLINE_SCRIPT: Final = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@router.get("/")
async def home(request: Request) -> Response:
    """The page that shows the service."""
    return _file(request, ASSETS / "index.html", POLICY)


@router.get("/assets/{name}")
async def page_asset(request: Request, name: str) -> Response:
    """A script or a style of that page."""
    return _file(request, _member(ASSETS, name))


@router.get("/guide")
async def guide() -> Response:
    """The folder of the documentation, to which its links are relative."""
    return RedirectResponse("guide/", headers={"Cache-Control": "no-cache"})


@router.get("/guide/{path:path}")
async def guide_page(request: Request, path: str) -> Response:
    """A page of the documentation, or what one loads; else a page that says how it is built."""
    if not GUIDE.is_dir():
        content = (ASSETS / "guide-missing.html").read_bytes()
        return HTMLResponse(content, 404, {"Content-Security-Policy": POLICY})
    page = _member(GUIDE, path or "index.html")
    return _file(request, page, _guide_policy(page) if page.suffix == ".html" else "")


def _member(folder: Path, name: str) -> Path:
    """A file of a folder.

    Raises:
        UnknownResourceError: If there is none.
    """
    path = _members(folder).get(name)
    if path is None:
        raise UnknownResourceError(f"no page has the path {name[:80]!r}")
    return path


@lru_cache
def _members(folder: Path) -> dict[str, Path]:
    """The files of a folder by their paths, so that no other file can be named."""
    return {
        path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()
    }


@lru_cache(256)
def _guide_policy(page: Path) -> str:
    """What a browser may load for a page: of inline scripts, those that were built into it."""
    scripts = _INLINE_SCRIPT.findall(page.read_text())
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    hashes = (f" 'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    scripts_policy = f"script-src 'self'{''.join(sorted(set(hashes)))}"
    # The search is a form, and Sphinx's theme has styles in its elements.
    own = ("form-action 'self'", "style-src 'self' 'unsafe-inline'")
    return "; ".join((*STRICT, scripts_policy, *own))


def file_response(
    request: Request, path: Path, media_type: str, headers: Mapping[str, str] | None = None
) -> Response:
    """A file, or 304 if the client has its content.

    Args:
        request: The request.
        path: The file.
        media_type: Its media type.
        headers: Further headers.
    """
    stat = path.stat()
    # By the content, since packages may give the files of all releases one time.
    etag = _etag(path, stat.st_mtime_ns, stat.st_size)
    headers = {**(headers or {}), "ETag": etag}
    tags = [
        tag.strip().removeprefix("W/")
        for tag in request.headers.get("if-none-match", "").split(",")
    ]
    response = FileResponse(path, headers=headers, media_type=media_type, stat_result=stat)
    return NotModifiedResponse(response.headers) if {etag, "*"} & set(tags) else response


@lru_cache(1024)
def _etag(path: Path, modified: int, size: int) -> str:
    return f'"{hashlib.sha256(path.read_bytes()).hexdigest()[:32]}"'


def _file(request: Request, path: Path, policy: str = "") -> Response:
    headers = {"Cache-Control": "no-cache", "Referrer-Policy": "no-referrer"}
    if policy:
        headers["Content-Security-Policy"] = policy
    media = "text/javascript" if path.suffix == ".js" else mimetypes.guess_type(path.name)[0]
    return file_response(request, path, media or "application/octet-stream", headers)
