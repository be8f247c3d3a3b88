"""Evaluations of labelled samples: they show what the API returns, and go on behind other views."""

import csv
import io
import json
from typing import Any

import pytest
from playwright.sync_api import FilePayload, Page, expect

from tests.integration.web.checks import check_everywhere, open_view, rounded
from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import SAMPLE, SCRIPT, connect, request


def choose(page: Page, name: str, content: str, encoding: str = "utf-8") -> None:
    """Choose a file of a labelled sample."""
    buffer = content.encode(encoding)
    file: FilePayload = {"name": name, "mimeType": "text/plain", "buffer": buffer}
    page.get_by_label("Labelled sample").set_input_files([file])


def write_csv(rows: list[tuple[str, str]]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([("label", "text"), *((label, text) for text, label in rows)])
    return buffer.getvalue()


def check_report(page: Page, report: dict[str, Any]) -> None:
    expect(page.locator("#verdict")).to_have_text(f"{report['verdict']}: {report['reason']}")
    expect(page.locator("#samples")).to_have_text(str(report["samples"]))
    expect(page.locator("#ece")).to_have_text(rounded(report["confidence"]["ece"], 3))
    rows = page.locator("#report tbody tr")
    for i, name in enumerate(("translated", "native", "absolute")):
        result = report[name]
        cells = rows.nth(i).locator("td")
        expect(cells.nth(0)).to_have_text(rounded(result["accuracy"], 3))
        low, high = result["interval"]
        expect(cells.nth(1)).to_have_text(f"{rounded(low, 3)} to {rounded(high, 3)}")
    bins = report["confidence"]["reliability"]
    cells = page.locator("#reliability tbody tr td:last-child")
    expect(cells).to_have_text([str(one["size"]) for one in bins])
    points = page.evaluate(
        "() => Chart.getChart(document.querySelector('#reliability canvas')).data.datasets[0].data"
    )
    assert points == [{"x": one["confidence"], "y": one["accuracy"]} for one in bins]


@pytest.mark.parametrize("has_key", [False, True], ids=["open", "keyed"])
def test_evaluation_goes_on_behind_other_views_and_shows_what_the_api_returns(
    texts_url: str, keyed_url: str, open_page: PageOpener, has_key: bool
) -> None:
    url = keyed_url if has_key else texts_url
    # Texts with what the format quotes; 72 are more than one part.
    sample = [(f'{text}, "now"\nor never {i}', label) for i in range(3) for text, label in SAMPLE]
    page = open_view(open_page, url, "evaluate", has_key=has_key)
    page.get_by_label("Head").select_option("page-topic")
    page.get_by_label("Encoder").select_option("page-encoder")
    choose(page, "sample.csv", write_csv(sample))
    page.get_by_label("Accuracy to assure").fill("0.9")
    page.get_by_label("Calibrate").check()
    page.get_by_role("button", name="Evaluate").press("Enter")
    page.get_by_role("link", name="Playground").click()
    expect(page.locator("h1")).to_have_text("Playground")
    page.get_by_role("link", name="Evaluate").click()
    expect(page.locator("#state-1")).to_have_text("done")
    texts, labels = zip(*sample, strict=True)
    embeddings = request(url, "POST", "/embed/page-encoder", {"items": texts})["embeddings"]
    body: dict[str, Any] = {"embeddings": embeddings, "labels": labels}
    body |= {"calibrate": True, "min_accuracy": 0.9}
    report = request(url, "POST", "/compatibility/page-encoder/page-topic", body)
    check_report(page, report)
    threshold = report["threshold"]["confidence"]
    expect(page.locator("#threshold")).to_contain_text(
        report["threshold"]["reason"] if threshold is None else rounded(threshold, 3)
    )
    # What has ended is there after the page was loaded again, too.
    page.reload()
    page.get_by_role("button", name="Show evaluation 1").click()
    check_report(page, report)
    if not has_key:
        check_everywhere(page)
    else:
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("status")).to_have_text("Enter a key with the scope read.")
        assert page.evaluate("JSON.stringify(sessionStorage)") == "{}"


def test_embeddings_are_evaluated_without_an_encoder(texts_url: str, open_page: PageOpener) -> None:
    body: dict[str, Any] = {"items": [text for text, _ in SAMPLE], "target": "page-rows"}
    rows = request(texts_url, "POST", "/embed/page-encoder", body)["embeddings"]
    labels = [label for _, label in SAMPLE]
    lines = [
        json.dumps({"embedding": row, "label": x}) for row, x in zip(rows, labels, strict=True)
    ]
    page = open_view(open_page, texts_url, "evaluate", has_key=False)
    page.get_by_label("Head").select_option("page-topic")
    page.get_by_label("Encoder").select_option("page-rows")
    choose(page, "sample.jsonl", "\n".join(lines))
    page.get_by_role("button", name="Evaluate").click()
    body = {"embeddings": rows, "labels": labels}
    report = request(texts_url, "POST", "/compatibility/page-rows/page-topic", body)
    expect(page.locator("#verdict")).to_have_text(f"{report['verdict']}: {report['reason']}")
    expect(page.locator("#report tbody tr").nth(1)).to_contain_text(
        "The sample has no embeddings of space page-encoder, which the head is of."
    )


def test_files_that_are_no_samples_are_refused(texts_url: str, open_page: PageOpener) -> None:
    page = open_view(open_page, texts_url, "evaluate", has_key=False)
    page.get_by_label("Head").select_option("page-topic")
    page.get_by_label("Encoder").select_option("page-encoder")
    for name, content, message in (
        ("a.csv", "text,name\na,b", 'a.csv, line 1: expected a column "label", got text, name.'),
        ("a.csv", "text;label\na, b;c", "seem to be separated by semicolons: save it with commas."),
        ("a.csv", "text,label\na", "a.csv, line 2: expected 2 values, got 1."),
        ("a.csv", 'text,label\n"a,b', "a.csv, line 2: expected a quote at the end"),
        ("a.jsonl", "{}\n[", "a.jsonl, line 2: expected one JSON value"),
        ("a.jsonl", "\n", "a.jsonl has no rows."),
        ("a.txt", "x", "Expected a file whose name ends in .csv, .tsv, .jsonl or .ndjson"),
    ):
        choose(page, name, content)
        page.get_by_role("button", name="Evaluate").click()
        expect(page.get_by_role("status")).to_contain_text(message)
    status = page.get_by_role("status")
    choose(page, "b.csv", write_csv([("my card", SCRIPT), ("my card", "unheard <b>")]))
    page.get_by_role("button", name="Evaluate").click()
    expect(status).to_contain_text('b.csv, line 3: head page-topic has no class "unheard <b>"; it')
    choose(page, "c.csv", "text,label\nl\xf6we,parcel", "latin-1")
    page.get_by_role("button", name="Evaluate").click()
    expect(status).to_contain_text("c.csv is not UTF-8 text")
    page.get_by_label("Encoder").select_option("page-rows")
    choose(page, "d.csv", write_csv([("my card", "parcel")]))
    page.get_by_role("button", name="Evaluate").click()
    expect(status).to_contain_text("Space page-rows has no encoder: expected a JSON lines file")
    expect(status).to_be_focused()
    expect(status).to_be_in_viewport()
    # Nothing was started.
    expect(page.locator("#state-1")).to_have_count(0)


def test_label_of_a_regression_that_is_no_number_is_refused_by_its_line(
    texts_url: str, open_page: PageOpener
) -> None:
    weight = [[0.1] * 384]
    body: dict[str, Any] = {"space": "page-encoder", "problem_type": "regression", "weight": weight}
    request(texts_url, "PUT", "/heads/page-value", {**body, "bias": [0.0], "labels": ["value"]})
    try:
        page = open_view(open_page, texts_url, "evaluate", has_key=False)
        page.get_by_label("Head").select_option("page-value")
        page.get_by_label("Encoder").select_option("page-encoder")
        for label in ("", "  ", "0x10", "1,5"):
            choose(page, "values.csv", write_csv([("a", "-1.5e1"), ("b", label)]))
            page.get_by_role("button", name="Evaluate").click()
            message = f'values.csv, line 3: expected a number as label, got "{label}".'
            expect(page.get_by_role("status")).to_have_text(message)
        expect(page.locator("#state-1")).to_have_count(0)
    finally:
        with connect(texts_url) as http:
            assert http.delete("/heads/page-value").status_code == 204


def test_long_text_is_named_by_its_line_and_cut_on_request(
    texts_url: str, open_page: PageOpener
) -> None:
    page = open_view(open_page, texts_url, "evaluate", has_key=False)
    page.get_by_label("Head").select_option("page-topic")
    page.get_by_label("Encoder").select_option("page-encoder")
    # The first part has 64 texts; a blank line is no row.
    rows = [(f"parcel {i}", "parcel") for i in range(64)] + [("card " * 600, SCRIPT)]
    header, rest = write_csv(rows).split("\r\n", 1)
    choose(page, "long.csv", f"{header}\r\n\r\n{rest}")
    page.get_by_role("button", name="Evaluate").click()
    state = page.locator("#state-1")
    expect(state).to_contain_text("failed: line 67: expected")
    expect(state).to_contain_text('check "Cut long texts" to cut the text')
    expect(state).not_to_contain_text("/items")
    page.get_by_label("Cut long texts").check()
    page.get_by_role("button", name="Evaluate").click()
    expect(page.locator("#state-2")).to_have_text("done")
    expect(page.locator("#texts-cut")).to_have_text("1")
