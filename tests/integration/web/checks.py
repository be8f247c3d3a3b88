"""What tests of several views of the page have in common."""

from typing import Any, Final

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import KEY, connect
from tests.support.reports import get_report

SERIOUS: Final = ("serious", "critical")
PHONE: Final = 360
"""Width of a small phone, in pixels."""
OVERFLOWING: Final = """() => [...document.querySelectorAll(
  "section :is(input, select, textarea, button)")].filter((control) => {
    const section = control.closest("section");
    const padding = parseFloat(getComputedStyle(section).paddingRight);
    return !control.closest(".scroll")
      && control.getBoundingClientRect().right > section.getBoundingClientRect().right - padding;
  }).map((control) => control.id || control.textContent)"""
"""Controls that reach into the padding of their section."""
TALL: Final = """() => [...document.querySelectorAll("tbody tr")]
  .filter((row) => row.getBoundingClientRect().height > innerHeight / 2)
  .map((row) => row.textContent)"""
"""Rows of tables that fill half of the screen, since a column of sentences is too narrow."""


def rounded(value: float, digits: int = 2) -> str:
    """A number as the page renders it."""
    return f"{value:.{digits}f}".rstrip("0").rstrip(".")


def get(url: str, path: str, **query: str) -> Any:
    """JSON of the API, once it is computed."""
    with connect(url) as http:
        response = get_report(http, path, query)
    assert response.status_code in (200, 503), response.text
    return response.json()


def check_accessibility(page: Page) -> None:
    """Check that axe finds no serious violation."""
    violations = Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"]) for v in violations if v["impact"] in SERIOUS] == []


def check_everywhere(page: Page) -> None:
    """Check a view in both themes and at the width of a phone; names in it are texts."""
    assert page.title() == "Stitchwork"
    check_accessibility(page)
    page.get_by_role("button", name="Dark").click()
    check_accessibility(page)
    page.set_viewport_size({"width": PHONE, "height": 740})
    # Charts follow the width a moment later.
    page.wait_for_function(f"document.documentElement.scrollWidth <= {PHONE}")
    assert page.evaluate(OVERFLOWING) == []


def open_view(open_page: PageOpener, url: str, view: str, *, has_key: bool) -> Page:
    """A view, in the light theme, with the key that the service needs."""
    page = open_page(url, f"/#{view}", color_scheme="light")
    if has_key:
        page.get_by_label("API key").fill(KEY)
        page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(view.capitalize())
    return page
