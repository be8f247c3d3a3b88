"""A browser, and two services with the same spaces: an open one, and one that requires a key."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from shutil import which
from typing import Final

import httpx
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from stitchwork.models.packaged_encoders import minilm_folder
from stitchwork.web.pages import GUIDE
from tests.conftest import make_pair
from tests.integration.web.texts import HEADERS, KEY, SCRIPT, register_texts
from tests.support import machine
from tests.support.code_blocks import ROOT
from tests.support.running_service import SharedService, running
from tests.support.text_models import BERT, save_text_model

EXPECTED: Final = re.compile(r"with a status of (401|412|422|503) ")
"""Chromium reports statuses that the page handles: no key, no worker, and what it was refused."""
MILLISECONDS: Final = 60_000
"""How long a page may take to show what it should."""

PageOpener = Callable[..., Page]


@pytest.fixture(scope="package", autouse=True)
def guide() -> None:
    """The guide, where this source tree was not installed by pip, which builds it."""
    if not GUIDE.is_dir():
        subprocess.run([sys.executable, ROOT / "docs/build_guide.py", GUIDE], check=True)


@pytest.fixture(scope="package")
def open_url() -> Iterator[str]:
    """Base URL of a service that needs no key."""
    with running(workers=0) as service:
        register(service.url)
        yield service.url


@pytest.fixture(scope="package")
def keyed_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a service that requires `KEY`, with a worker, and a small encoder of texts."""
    from transformers import BertConfig, BertModel

    folder = tmp_path_factory.mktemp("model")
    save_text_model(folder, BertModel, BertConfig(**BERT))
    with running(roots=(folder,), STITCHWORK_ADMIN_KEY=KEY) as service:
        register(service.url)
        register_texts(service.url, {"kind": "transformers", "model": str(folder)})
        yield service.url


@pytest.fixture(scope="package")
def texts_url(shared_service: SharedService) -> str:
    """Base URL of a service that needs no key, with a worker, and a pretrained encoder of texts."""
    url = shared_service.running.url
    register_texts(url, {"kind": "transformers", "model": str(minilm_folder())})
    return url


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The system's Chromium."""
    expect.set_options(timeout=MILLISECONDS)
    program = which("chromium")
    assert program is not None, "expected Debian's package chromium to be installed"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[PageOpener]:
    """Opens pages that may reach their own service alone and must not report any error."""
    problems: list[str] = []
    pages: list[Page] = []

    def opener(url: str, path: str = "/", **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(MILLISECONDS)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console",
            lambda message: (
                problems.append(message.text)
                if message.type == "error" and not EXPECTED.search(message.text)
                else None
            ),
        )
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((f"{url}/", "data:"))
                else problems.append(f"request to {request.url}")
            ),
        )
        page.goto(url + path)
        pages.append(page)
        return page

    yield opener
    for page in pages:
        page.context.close()
    assert problems == []


def register(url: str) -> None:
    """Register spaces x, y and z on the set S, z with the anchors of y in another order."""
    pair = make_pair(k=120)
    x = pair.x_anchors.copy()
    x[1] = x[0]
    ids = [SCRIPT, *(f"a{i}" for i in range(1, 120))]
    order = np.random.default_rng(5).permutation(120)
    with httpx.Client(base_url=url, headers=HEADERS, timeout=machine.deadline(60)) as http:
        body = {"size": 120, "ids": ids}
        assert http.put("/anchor-sets/S", json=body).status_code == 201
        for name, anchors in (("x", x), ("y", pair.y_anchors), ("z", pair.y_anchors[order])):
            body = {"anchor_set": "S", "anchors": anchors.tolist()}
            assert http.put(f"/spaces/{name}", json=body).status_code == 201
