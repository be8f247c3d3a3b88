"""The page at `/`: what it shows is what the API returns."""

import re

import httpx
import pytest
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.web.checks import check_accessibility, get, rounded
from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import KEY, SCRIPT


def check_overview(page: Page, url: str) -> None:
    expect(page.locator("h1")).to_have_text("Overview")
    expect(page.locator("#version")).to_have_text(get(url, "/info")["version"])
    ready = get(url, "/health/ready")
    expect(page.locator("#ready")).to_have_text("yes" if ready["ready"] else "no")
    expect(page.locator("#worker-count")).to_have_text(str(ready["workers"]))
    # Of the second poll on, there are rates: the page's own requests at least.
    expect(page.locator("#rate")).to_have_text(re.compile(r"[0-9.]+"))
    assert float(page.locator("#rate").inner_text()) > 0


def check_spaces(page: Page, url: str) -> None:
    expect(page.locator("h1")).to_have_text("Spaces")
    pairs = get(url, "/compatibility", anchor_set="S")["pairs"]
    (pair,) = [p for p in pairs if (p["source"], p["target"]) == ("x", "y")]
    cell = page.get_by_role("button", name="x to y:")
    expect(cell).to_have_text(f"● {rounded(pair['similarity'])}")
    expect(cell).to_have_attribute("title", f"{cell.get_attribute('aria-label')}")
    expect(page.get_by_role("button", name="x to z: poor")).to_be_visible()
    cell.focus()
    page.keyboard.press("Enter")
    report = get(url, "/spaces/x/anchors", target="y")
    expect(page.locator("#verdict")).to_have_text(f"good: {pair['reason']}")
    expect(page.locator("#anchor-count")).to_have_text(str(report["anchors"]))
    expect(page.locator("#recall")).to_have_text(rounded(pair["recall_at_1"]))
    expect(page.locator("#duplicates")).to_have_text("1")
    # Names are text, whatever they hold.
    assert report["duplicates"]["exact"] == [[SCRIPT, "a1"]]
    expect(page.locator("#anchors")).to_contain_text(f"Equal: {SCRIPT} = a1")
    assert page.title() == "Stitchwork"
    expect(page.get_by_role("heading", name="After translation")).to_be_visible()
    points = page.evaluate(
        """() => [...document.querySelectorAll("canvas")].map((canvas) =>
            Chart.getChart(canvas).data.datasets.map((set) => set.data.length))"""
    )
    assert points == [[120, 120], [120, 120, 360], [len(report["spectrum"])]]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_views_of_an_open_service_show_what_the_api_returns(
    open_url: str, open_page: PageOpener, theme: str
) -> None:
    page = open_page(open_url, color_scheme=theme)
    assert page.locator("html").get_attribute("data-theme") == theme
    check_overview(page, open_url)
    # The service has no worker: that it is not ready is no refusal.
    refusals = sum(
        sample.value
        for family in text_string_to_metric_families(httpx.get(f"{open_url}/metrics").text)
        for sample in family.samples
        if sample.name == "stitchwork_requests_total"
        and sample.labels["status"] >= "400"
        and not sample.labels["route"].startswith("/health")
    )
    expect(page.locator("#refusals")).to_have_text(f"{refusals:.0f}")
    check_accessibility(page)
    page.get_by_role("link", name="Spaces").click()
    check_spaces(page, open_url)
    check_accessibility(page)
    page.get_by_role("button", name="Light" if theme == "dark" else "Dark").click()
    assert page.locator("html").get_attribute("data-theme") != theme


def test_key_is_entered_once_and_forgotten_with_the_session(
    keyed_url: str, open_page: PageOpener
) -> None:
    page = open_page(keyed_url)
    expect(page.get_by_role("status")).to_have_text("Enter a key with the scope read.")
    check_accessibility(page)
    page.get_by_label("API key").fill("wrong")
    page.get_by_role("button", name="Use").click()
    expect(page.get_by_role("status")).to_contain_text("key")
    expect(page.get_by_role("status")).to_have_class("error")
    page.get_by_label("API key").fill(KEY)
    page.keyboard.press("Enter")
    check_overview(page, keyed_url)
    # Models are shown by name, not by the keys that workers know them by.
    (worker,) = get(keyed_url, "/workers")["workers"]
    assert worker["loaded"]
    names = {get(keyed_url, "/spaces/page-encoder")["encoder"]["model"]}
    assert set(worker["loaded_models"]) == names
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name=worker["worker"]))
    expect(row.get_by_role("cell").nth(1)).to_have_text(", ".join(names))
    page.goto(f"{keyed_url}/#spaces")
    check_spaces(page, keyed_url)
    assert KEY not in page.content() + page.url + str(page.context.storage_state())
    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_role("status")).to_have_text("Enter a key with the scope read.")


def test_page_fits_a_phone(open_url: str, open_page: PageOpener) -> None:
    page = open_page(open_url, "/#spaces", viewport={"width": 360, "height": 740})
    check_spaces(page, open_url)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    # The navigation has the width of the page.
    box = page.locator("header nav").bounding_box()
    assert box is not None
    assert box["width"] > 300


def test_policy_allows_nothing_inline_and_no_other_host(open_url: str) -> None:
    policy = httpx.get(f"{open_url}/").headers["content-security-policy"]
    sources = {source for part in policy.split("; ") for source in part.split()[1:]}
    assert sources == {"'none'", "'self'", "data:"}
    assert httpx.get(f"{open_url}/assets/pages.py").status_code == 404
    assert httpx.get(f"{open_url}/assets/..%2fpages.py").status_code == 404
