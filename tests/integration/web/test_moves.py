"""The view of moves: running and past ones, as the API lists them."""

from typing import Any, Final

from playwright.sync_api import expect

from tests.integration.web.checks import check_everywhere, open_view
from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import SCRIPT, connect, request
from tests.support.move_reports import REPORT

TARGET: Final = "postgresql://me@host/docs?table=moved"
REASONS: Final = {f"all its numbers are {SCRIPT}": 3}
ASSESSMENT: Final[dict[str, Any]] = {
    "action": "translate",
    "reasons": [f"Use the store that was written: {SCRIPT}", "Half of the sample"],
    "sample": 300,
    "recall_at_10_translated_queries": 0.9121,
    "recall_at_10_translated_store": 0.9412,
    "recall_at_10_translated_store_interval": [0.9301, 0.9523],
}


def put(url: str, path: str, fields: dict[str, Any]) -> None:
    with connect(url) as http:
        response = http.put(path, json=fields)
    assert response.status_code == 204, response.text


def test_moves_of_an_open_service_are_listed_while_they_run_and_afterwards(
    texts_url: str, open_page: PageOpener
) -> None:
    source = f"open-{SCRIPT}.parquet"
    report = {**REPORT, "source": source, "target": TARGET, "rows": 1500, "total": 6000}
    report |= {"written": 1497, "rejected": 3, "reasons": REASONS, "rows_per_second": 250.0}
    put(texts_url, "/moves/open", report)
    page = open_view(open_page, texts_url, "moves", has_key=False)
    running = page.locator("#running-moves").get_by_role("row").filter(has_text=source)
    cells = running.get_by_role("cell")
    record = request(texts_url, "GET", "/moves/open")
    assert record["status"] == "running"
    expect(running.get_by_role("rowheader")).to_have_text(f"{source} → {TARGET}x → y, ridge")
    expect(cells.nth(0)).to_have_text("1,500 of 6,000 (25%)")
    progress = page.get_by_role("progressbar", name=f"Progress of {source} to {TARGET}")
    expect(progress).to_have_js_property("position", record["rows"] / record["total"])
    expect(cells.nth(1)).to_have_text("250")
    expect(cells.nth(2)).to_have_text("18 seconds")
    expect(cells.nth(3)).to_contain_text("1,497 written, 3 left out")
    cells.nth(3).get_by_text("Reasons").click()
    expect(cells.nth(3).get_by_role("listitem")).to_have_text(f"3: {next(iter(REASONS))}")
    # The view follows without a reload.
    end = {"status": "finished", "rows": 6000, "written": 5997, "warnings": [f"{SCRIPT} changed"]}
    put(texts_url, "/moves/open", report | end)
    put(texts_url, "/moves/open/assessment", ASSESSMENT)
    past = page.locator("#past-moves").get_by_role("row").filter(has_text=source)
    cells = past.get_by_role("cell")
    expect(cells.nth(2)).to_have_text("before 0.912after 0.941 (0.93 to 0.952)")
    expect(running).to_have_count(0)
    expect(cells.nth(0)).to_contain_text("finished")
    expect(cells.nth(0).get_by_role("listitem")).to_have_text(f"{SCRIPT} changed")
    expect(cells.nth(1)).to_contain_text("5,997 written, 3 left out")
    expect(cells.nth(3).get_by_text("translate", exact=True)).to_be_visible()
    cells.nth(3).get_by_text("Reasons").click()
    expect(cells.nth(3).get_by_role("listitem")).to_have_text(ASSESSMENT["reasons"])
    updated = request(texts_url, "GET", "/moves/open")["updated"]
    assert cells.nth(0).get_by_role("time").get_attribute("datetime") == updated
    check_everywhere(page)


def test_failed_move_is_listed_with_its_reason_to_a_key(
    keyed_url: str, open_page: PageOpener
) -> None:
    failure = {"status": "failed", "shard": "1/8", "engine": "ray", "reason": f"{SCRIPT} is full"}
    put(keyed_url, "/moves/failed", REPORT | failure)
    page = open_view(open_page, keyed_url, "moves", has_key=True)
    failed = page.locator("#past-moves").get_by_role("row").nth(1)
    note = "x → y, ridge, shard 1/8, by Ray"
    expect(failed.get_by_role("rowheader")).to_have_text(f"a.parquet → b.parquet{note}")
    expect(failed.get_by_role("cell").nth(0)).to_contain_text(f"failed: {SCRIPT} is full")
    expect(failed.get_by_role("cell").nth(1)).to_have_text("1 written of 2")
    expect(page.get_by_text("No move is running.")).to_be_visible()
