"""Registration by forms: what they send, its progress, and what is refused."""

import io

import numpy as np
import pytest
from playwright.sync_api import FilePayload, Page, expect
from safetensors.numpy import save

from stitchwork.models.packaged_encoders import minilm_folder
from tests.integration.web.checks import TALL, check_everywhere, open_view
from tests.integration.web.conftest import PageOpener
from tests.integration.web.texts import ANCHORS, SCRIPT, request, wait_for


def attach(page: Page, label: str, name: str, content: bytes) -> None:
    """Choose a file."""
    file: FilePayload = {"name": name, "mimeType": "application/octet-stream", "buffer": content}
    page.get_by_label(label).set_input_files([file])


def check_row(page: Page, id_: str, kind: str, content: str) -> None:
    row = page.locator("#registrations tr", has=page.get_by_role("rowheader", name=id_, exact=True))
    expect(row.locator("td").nth(0)).to_have_text(kind)
    expect(row.locator("td").nth(1)).to_have_text("ready")
    expect(row.locator("td").nth(2)).to_have_text(content)


def test_forms_register_a_set_its_spaces_and_a_head(texts_url: str, open_page: PageOpener) -> None:
    page = open_view(open_page, texts_url, "registration", has_key=False)
    page.get_by_label("Id of the set").fill("page-form")
    message = page.locator("#message")
    attach(page, "Or a file of texts", "texts.txt", "l\xf6we".encode("latin-1"))
    expect(message).to_contain_text("texts.txt is not UTF-8 text")
    expect(page.get_by_role("textbox", name="Texts")).to_have_value("")
    table = "\n".join(["label,text", *(f"a,{text}" for text in ANCHORS[:8])])
    attach(page, "Or a file of texts", "texts.csv", table.encode())
    expect(page.get_by_role("textbox", name="Texts")).to_have_value("\n".join(ANCHORS[:8]))
    page.get_by_role("button", name="Register the set").press("Enter")
    expect(page.locator("#outcome")).to_have_text("Anchor set page-form: created, ready.")
    check_row(page, "page-form", "anchor set", "8 anchors")
    page.get_by_label("Id of the space").fill("page-form-encoder")
    page.get_by_role("combobox", name="Anchor set").fill("page-form")
    page.get_by_label("Model").fill("/nowhere")
    page.get_by_role("button", name="Register the space").click()
    row = page.get_by_role("row", name="page-form-encoder")
    expect(row).to_contain_text("failed: 0 of 8")
    expect(row).to_contain_text("STITCHWORK_MODEL_ROOTS")
    outcome = page.locator("#outcome")
    expect(outcome).to_contain_text("Space page-form-encoder: failed: ")
    # Nothing is lost by another try.
    page.get_by_label("Model").fill(str(minilm_folder()))
    page.get_by_label("Further fields").fill('{"max_length": 32}')
    page.get_by_role("button", name="Register the space").click()
    expect(outcome.locator("p")).to_have_text("Space page-form-encoder: ready.")
    expect(outcome.get_by_role("listitem")).to_contain_text("8 anchors are few")
    check_row(page, "page-form-encoder", "space", "384 dimensions on page-form")
    space = request(texts_url, "GET", "/spaces/page-form-encoder")
    assert space["encoder"]["max_length"] == 32
    page.get_by_label("Id of the head").fill("page-form-head")
    page.get_by_label("Its space").fill("page-form-encoder")
    lines = ["text\tlabel", f"my card\t{SCRIPT}", "my parcel\tparcel"]
    attach(page, "Labelled sample", "sample.tsv", "\n".join(lines).encode())
    page.get_by_role("button", name="Register the head").click()
    check_row(page, "page-form-head", "head", "2 labels, in page-form-encoder")
    assert set(wait_for(texts_url, "/heads/page-form-head")["labels"]) == {SCRIPT, "parcel"}
    # The same id again is refused unless it is to be replaced.
    page.get_by_role("button", name="Register the head").click()
    expect(message).to_contain_text("head page-form-head exists already")
    expect(message).to_have_class("error")
    expect(message).to_be_focused()
    expect(message).to_be_in_viewport()
    expect(outcome).to_be_empty()
    check_everywhere(page)
    assert page.evaluate(TALL) == []


def test_forms_register_arrays_in_files(keyed_url: str, open_page: PageOpener) -> None:
    page = open_view(open_page, keyed_url, "registration", has_key=True)
    rng = np.random.default_rng(0)
    buffer = io.BytesIO()
    np.save(buffer, rng.normal(size=(12, 6)).astype(np.float32))
    page.get_by_label("Id of the space").fill("page-file")
    page.get_by_role("combobox", name="Anchor set").fill("page-file-set")
    page.get_by_label("Embeddings").select_option("from a file")
    page.get_by_role("button", name="Register the space").click()
    expect(page.locator("#message")).to_contain_text(".npy or .safetensors, got none")
    attach(page, "Anchors", "anchors.npy", buffer.getvalue())
    page.get_by_role("button", name="Register the space").click()
    check_row(page, "page-file", "space", "6 dimensions on page-file-set")
    page.get_by_label("Id of the head").fill("page-file-head")
    page.get_by_label("Its space").fill("page-file")
    page.locator("#head-source").select_option("from a file of weights")
    page.get_by_role("button", name="Register the head").click()
    expect(page.locator("#message")).to_contain_text("ends in .safetensors, got none")
    weights = save({"weight": np.eye(2, 6, dtype=np.float32)}, {"labels": '["a", "b"]'})
    attach(page, "Weights", "head.safetensors", weights)
    page.get_by_role("button", name="Register the head").click()
    check_row(page, "page-file-head", "head", "2 labels, in page-file")
    assert request(keyed_url, "GET", "/heads/page-file-head")["labels"] == ["a", "b"]


@pytest.mark.parametrize("view", ["playground", "evaluate"])
def test_views_of_an_empty_service_lead_to_registration(
    open_url: str, open_page: PageOpener, view: str
) -> None:
    page = open_view(open_page, open_url, view, has_key=False)
    page.get_by_role("link", name="Register one").click()
    expect(page.locator("h1")).to_have_text("Registration")
