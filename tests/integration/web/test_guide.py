"""The documentation at `/guide`: built strictly, served with its policy, without another host."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from playwright.sync_api import expect

from stitchwork.web import pages
from tests.integration.web.conftest import PageOpener
from tests.support.code_blocks import ROOT


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages, built as they are with the package: a warning is an error."""
    folder = tmp_path_factory.mktemp("guide")
    command = [sys.executable, str(ROOT / "docs/build_guide.py"), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return folder


class Loads(HTMLParser):
    """URLs that a page loads by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = {"script": "src", "img": "src", "link": "href", "iframe": "src"}
        self.urls += [value or "" for name, value in attrs if name == names.get(tag)]


def test_every_page_of_the_documentation_is_built(built: Path) -> None:
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    pages = {path.relative_to(built) for path in built.rglob("*.html")}
    assert {path.with_suffix(".html") for path in sources} <= pages


def test_pages_load_nothing_of_another_host(built: Path) -> None:
    for page in built.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert [url for url in loads.urls if "//" in url] == [], page


def test_formulas_are_rendered_as_mathml(built: Path) -> None:
    method = (built / "method.html").read_text()
    formulas = (ROOT / "docs/method.md").read_text().count("```math")
    assert len(re.findall('<math [^>]*display="block"', method)) == formulas > 1
    assert "\\kappa" not in method


def test_guide_is_served_with_search_and_without_an_error(
    open_url: str, open_page: PageOpener
) -> None:
    page = open_page(open_url, "/guide", viewport={"width": 1400, "height": 900})
    assert page.url == f"{open_url}/guide/"
    expect(page.locator("h1")).to_contain_text("Documentation")
    page.locator(".sidebar-tree").get_by_role("link", name="Method").click()
    expect(page.locator("h1")).to_contain_text("Method")
    page.get_by_placeholder("Search").fill("anchors")
    page.keyboard.press("Enter")
    expect(page.locator("#search-results li").first).to_be_visible()


def test_guide_that_is_not_built_says_how_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pages, "GUIDE", tmp_path / "guide")
    app = FastAPI()
    app.include_router(pages.router)
    response = TestClient(app).get("/guide/quickstart.html")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "docs/build_guide.py" in response.text


def test_policy_of_the_guide_names_its_inline_script(open_url: str) -> None:
    response = httpx.get(f"{open_url}/guide/index.html")
    policy = response.headers["content-security-policy"]
    (scripts,) = [part for part in policy.split("; ") if part.startswith("script-src")]
    assert "'sha256-" in scripts
    assert "'unsafe-inline'" not in scripts
    assert httpx.get(f"{open_url}/guide/..%2f__init__.py").status_code == 404
    assert httpx.get(f"{open_url}/guide/nothing.html").status_code == 404
