"""The playground: what it shows is what the API returns, and its commands return the same."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.integration.web.checks import check_everywhere, open_view, rounded
from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import ANCHORS, KEY, SCRIPT, request, wait_for
from tests.support import images, machine
from tests.support.running_service import SharedService

NOTHING: Final = "\u2013"
TEXTS: Final = ['somebody took \'my "card"', SCRIPT, "where is $HOME \\ `parcel`?"]


def stitch(url: str, encoder: str, head: str, items: list[str]) -> Any:
    return request(url, "POST", f"/stitch/{encoder}/{head}", {"items": items, "top": 5})


def run_call(command: list[str], folder: Path) -> str:
    """The output of a call of the page, as its user runs it."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "STITCHWORK_KEY": KEY}
    seconds = machine.deadline(60)
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def check_calls(page: Page, head: str, predictions: list[Any], folder: Path) -> None:
    """Check that the calls for a head return these predictions."""
    page.locator(f'[data-head="{head}"] summary').click()
    labels = [prediction["label"] for prediction in predictions]
    curl = page.locator(f"#curl-{head}").inner_text()
    response = json.loads(run_call(["bash", "-c", curl.replace("curl ", "curl -sS ", 1)], folder))
    assert [prediction["label"] for prediction in response["predictions"]] == labels
    assert [len(prediction["top"]) for prediction in response["predictions"]] == [2] * len(labels)
    program = page.locator(f"#python-{head}").inner_text()
    lines = run_call([sys.executable, "-c", program], folder).splitlines()
    assert len(lines) == len(labels)
    for line, label in zip(lines, labels, strict=True):
        assert repr(label) in line


def check_head(page: Page, url: str, head: str) -> Any:
    """Check that the table of a head has what the API returns, and return that."""
    rows = page.locator(f'[data-head="{head}"] tbody tr')
    response = stitch(url, "page-encoder", head, TEXTS)
    expect(rows).to_have_count(len(TEXTS))
    for i, prediction in enumerate(response["predictions"]):
        cells = rows.nth(i).locator("td")
        expect(rows.nth(i).locator("th")).to_have_text(TEXTS[i])
        expect(cells.nth(0)).to_have_text(prediction["label"])
        kind = "calibrated" if prediction["calibrated"] else "not calibrated"
        expect(cells.nth(1)).to_have_text(f"{rounded(prediction['confidence'], 3)}, {kind}")
        scores = [f"{top['label']} {rounded(top['score'], 3)}" for top in prediction["top"]]
        expect(cells.nth(2)).to_have_text(", ".join(scores))
        is_uncovered = i in response["uncovered"]
        remark = "not like the anchors (uncovered)" if is_uncovered else NOTHING
        expect(cells.nth(3)).to_have_text(remark)
    warnings = page.locator(f'[data-head="{head}"] .bad li').all_inner_texts()
    assert warnings == response["warnings"]
    return response


@pytest.mark.parametrize("has_key", [False, True], ids=["open", "keyed"])
def test_playground_shows_what_the_api_returns_for_texts(
    texts_url: str, keyed_url: str, open_page: PageOpener, tmp_path: Path, has_key: bool
) -> None:
    url = keyed_url if has_key else texts_url
    page = open_view(open_page, url, "playground", has_key=has_key)
    page.get_by_label("Encoder").select_option("page-encoder")
    page.get_by_label("Texts", exact=True).fill("\n".join(TEXTS))
    page.get_by_role("button", name="Run").press("Enter")
    responses = {head: check_head(page, url, head) for head in ("page-topic", "page-side")}
    # Texts are translated for the second head, and only a pretrained encoder finds them unlike the
    # anchors.
    assert has_key or responses["page-side"]["uncovered"] == [0, 1, 2]
    assert KEY not in page.content()
    if not has_key:
        check_everywhere(page)
        return
    for head, response in responses.items():
        check_calls(page, head, response["predictions"], tmp_path)


def test_playground_shows_the_nearest_anchors_and_cuts_texts_on_request(
    texts_url: str, open_page: PageOpener, tmp_path: Path
) -> None:
    page = open_view(open_page, texts_url, "playground", has_key=False)
    page.get_by_label("Encoder").select_option("page-encoder")
    for box in page.get_by_role("checkbox").all():
        box.uncheck()
    page.get_by_label("Texts", exact=True).fill(ANCHORS[9])
    page.get_by_role("button", name="Run").click()
    cell = page.locator("#nearest tbody td")
    embeddings = request(texts_url, "POST", "/embed/page-encoder", {"items": [ANCHORS[9]]})
    body = {"embeddings": embeddings["embeddings"]}
    (nearest,) = request(texts_url, "POST", "/spaces/page-encoder/anchors/nearest", body)["nearest"]
    assert (nearest[0]["anchor"], nearest[0]["text"]) == (9, ANCHORS[9])
    texts = [f"{anchor['text']} ({rounded(anchor['cosine'])})" for anchor in nearest]
    expect(cell).to_have_text("; ".join(texts))
    expect(page.locator("[data-head]")).to_have_count(0)
    page.get_by_label("Texts", exact=True).fill(f"{ANCHORS[9]}\n\n{'card ' * 600}")
    page.locator('input[value="page-topic"]').check()
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#nearest .bad")).to_contain_text("line 3: expected")
    expect(page.locator("#nearest .bad")).to_contain_text('check "Cut long texts"')
    page.get_by_label("Cut long texts").check()
    page.get_by_role("button", name="Run").click()
    remarks = page.locator('[data-head="page-topic"] tbody td:last-child')
    expect(remarks.last).to_contain_text("the text was cut")
    page.locator('[data-head="page-topic"] summary').click()
    for language in ("curl", "python"):
        expect(page.locator(f"#{language}-page-topic")).to_contain_text("truncate")
    program = page.locator("#python-page-topic").inner_text()
    assert len(run_call([sys.executable, "-c", program], tmp_path).splitlines()) == 2
    page.get_by_label("Texts", exact=True).fill(" \n")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("Enter a text.")


def test_playground_takes_images_that_are_dropped(
    shared_service: SharedService, open_page: PageOpener, tmp_path: Path
) -> None:
    url = shared_service.running.url
    pictures = [images.file(images.picture(40 + 8 * i, 32)) for i in range(6)]
    encoded = [base64.b64encode(picture).decode() for picture in pictures]
    names = ["a, b;\"c'.png", *(f"{i}.png" for i in range(1, 6))]
    body: dict[str, Any] = {"modality": "image", "items": encoded, "ids": names}
    request(url, "PUT", "/anchor-sets/page-images", body)
    encoder = {
        "kind": "timm",
        "model": "tf_efficientnet_lite0",
        "weights": str(shared_service.lite0),
        "input_size": 96,
    }
    body = {"anchor_set": "page-images", "encoder": encoder}
    request(url, "PUT", "/spaces/page-lite", body)
    dim = wait_for(url, "/spaces/page-lite")["dim"]
    weight = [[0.1] * dim, [-0.1] * dim]
    body = {"space": "page-lite", "weight": weight, "labels": ["up", "down"]}
    request(url, "PUT", "/heads/page-sign", body)
    page = open_view(open_page, url, "playground", has_key=False)
    page.get_by_label("Encoder").select_option("page-lite")
    files = page.evaluate_handle(
        """(files) => {
            const data = new DataTransfer();
            for (const [name, content] of files) {
                const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
                data.items.add(new File([bytes], name, { type: "image/png" }));
            }
            return data;
        }""",
        [[names[0], encoded[0]], [names[1], encoded[1]]],
    )
    page.dispatch_event(".drop", "drop", {"dataTransfer": files})
    expect(page.locator("#images img")).to_have_count(2)
    page.get_by_role("button", name="Run").click()
    response = stitch(url, "page-lite", "page-sign", encoded[:2])
    cells = page.locator('[data-head="page-sign"] tbody td:nth-of-type(1)')
    labels = [prediction["label"] for prediction in response["predictions"]]
    expect(cells).to_have_text(labels)
    expect(page.locator("#nearest tbody td").first).to_contain_text(f"{names[0]} (1);")
    for name, picture in zip(names[:2], pictures[:2], strict=True):
        (tmp_path / name).write_bytes(picture)
    check_calls(page, "page-sign", response["predictions"], tmp_path)
