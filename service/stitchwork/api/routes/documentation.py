"""Swagger UI and ReDoc, with scripts and styles from a package: they need no internet."""

from importlib.resources import files
from pathlib import Path
from typing import Final, Literal

from fastapi import APIRouter, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse, Response

from stitchwork.web.pages import file_response

router = APIRouter(include_in_schema=False)

TITLE: Final = "Stitchwork"
OPENAPI: Final = "openapi.json"
"""URLs are relative to the page, so that it works below a path prefix of a proxy."""
ASSETS: Final = "docs/assets"
FOLDER: Final = Path(str(files("fastapi_offline"))) / "static"
MEDIA_TYPES: Final = {
    ".js": "text/javascript",
    ".css": "text/css",
    ".png": "image/png",
}
AssetName = Literal["favicon.png", "redoc.standalone.js", "swagger-ui-bundle.js", "swagger-ui.css"]
POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "connect-src 'self'",
        "font-src data:",
        "img-src 'self' data:",
        # Both pages start by an inline script and write inline styles; ReDoc searches in a worker.
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "worker-src blob:",
    )
)
"""What a browser may load for these pages: nothing of another host."""


@router.get("/docs")
async def swagger_ui() -> HTMLResponse:
    """The HTTP API as a page on which requests can be tried."""
    return _page(
        get_swagger_ui_html(
            openapi_url=OPENAPI,
            title=TITLE,
            swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{ASSETS}/favicon.png",
        )
    )


@router.get("/redoc")
async def redoc() -> HTMLResponse:
    """The HTTP API as a page to read."""
    return _page(
        get_redoc_html(
            openapi_url=OPENAPI,
            title=TITLE,
            redoc_js_url=f"{ASSETS}/redoc.standalone.js",
            redoc_favicon_url=f"{ASSETS}/favicon.png",
            with_google_fonts=False,
        )
    )


@router.get("/docs/assets/{name}")
async def asset(request: Request, name: AssetName) -> Response:
    """A script, style or image of these pages."""
    return file_response(request, FOLDER / name, MEDIA_TYPES[Path(name).suffix])


def _page(page: HTMLResponse) -> HTMLResponse:
    page.headers["Content-Security-Policy"] = POLICY
    return page
