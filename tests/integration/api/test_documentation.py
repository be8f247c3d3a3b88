"""The pages of the HTTP API: all that they load comes from the service."""

import re

import httpx
import pytest

from stitchwork.api.routes.documentation import FOLDER


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_page_loads_scripts_and_styles_of_the_service_alone(http: httpx.Client, page: str) -> None:
    response = http.get(page)
    assert response.headers["content-type"].startswith("text/html")
    urls = re.findall(r"""(?:src|href|spec-url)=["']([^"']+)["']""", response.text)
    urls += re.findall(r"url: '([^']+)'", response.text)
    assert any(url.endswith(".js") for url in urls)
    assert "openapi.json" in urls
    for url in urls:
        # Relative, so that they hold below a path prefix.
        assert not url.startswith(("/", "http")), url
        loaded = http.get(f"/{url}")
        assert loaded.status_code == 200, url
        if url.endswith(".js"):
            assert loaded.headers["content-type"].startswith("text/javascript")
            assert loaded.content == (FOLDER / url.rpartition("/")[2]).read_bytes()
    assert "http" not in re.sub(r"https?://127\.0\.0\.1:\d+", "", " ".join(urls))


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_browser_may_load_nothing_of_another_host(http: httpx.Client, page: str) -> None:
    policy = dict(
        part.split(" ", 1) for part in http.get(page).headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    sources = {source for value in policy.values() for source in value.split()}
    assert sources == {"'none'", "'self'", "data:", "blob:", "'unsafe-inline'"}


def test_unknown_asset_is_refused(http: httpx.Client) -> None:
    for name in ("passwd", "..%2f..%2fcore.py", "core.py"):
        assert http.get(f"/docs/assets/{name}").status_code in (404, 422), name
    assert http.get("/docs/assets/core.py").json()["pointer"] == "/name"


@pytest.mark.parametrize("path", ["/", "/assets/page.js", "/docs/assets/swagger-ui.css"])
def test_file_that_the_browser_has_is_not_sent_again(http: httpx.Client, path: str) -> None:
    first = http.get(path)
    tag = first.headers["etag"]
    for tags in (tag, f'"other", W/{tag}', "*"):
        again = http.get(path, headers={"If-None-Match": tags})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == tag
    changed = http.get(path, headers={"If-None-Match": '"other"'})
    assert (changed.status_code, changed.content) == (200, first.content)
